//! A session of one connection: login, commands, solicited data, NOP.
//!
//! One task reads and one writes, joined by an unbounded queue, so that answering an R2T never keeps the reader from
//! reading. Commands are limited by the window that the target grants.

use super::COMMAND_LIMIT;
use super::pdu::Pdu;
use crate::support::wof::HostError;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};

/// Whether header and data carry CRC-32C.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Digests {
    /// No digests.
    None,
    /// Both.
    Crc32c,
}

/// Where to log in and how.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    /// "host:port".
    pub(crate) portal: String,
    /// Name of the target.
    pub(crate) target: String,
    /// Our own name.
    pub(crate) initiator: String,
    /// Qualifier in the ISID; two sessions of one initiator differ in it.
    pub(crate) qualifier: u16,
    /// Digests asked for.
    pub(crate) digests: Digests,
}

/// The data of a command.
#[derive(Clone, Debug)]
pub(crate) enum Transfer {
    /// None.
    None,
    /// To the target.
    Out(bytes::Bytes),
    /// From the target, at most this many bytes.
    In(u32),
}

/// A logged-in session. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

/// Where the outcome of a command that was sent will arrive.
type Answer = oneshot::Receiver<Result<Vec<u8>, HostError>>;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    window_moved: Notify,
    outgoing: mpsc::UnboundedSender<Pdu>,
    target_segment_bytes: usize,
    immediate_bytes: usize,
}

#[derive(Debug)]
struct State {
    next_cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    next_tag: u32,
    pending: BTreeMap<u32, Pending>,
    dead: Option<String>,
}

#[derive(Debug)]
struct Pending {
    out: bytes::Bytes,
    into: Vec<u8>,
    done: oneshot::Sender<Result<Vec<u8>, HostError>>,
}

impl Session {
    /// Logs in.
    pub(crate) async fn login(options: &SessionOptions) -> Result<Self, HostError> {
        match tokio::time::timeout(COMMAND_LIMIT, Self::login_now(options)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(HostError::Unknown(format!("login: {error}"))),
            Err(_) => Err(HostError::Unknown("login: no answer".into())),
        }
    }

    async fn login_now(options: &SessionOptions) -> io::Result<Self> {
        let mut stream = TcpStream::connect(&options.portal).await?;
        stream.set_nodelay(true)?;
        let security = format!(
            "InitiatorName={}\0TargetName={}\0SessionType=Normal\0AuthMethod=None\0",
            options.initiator, options.target
        );
        login_step(&mut stream, options, SECURITY_TO_OPERATIONAL, &security, 0).await?;
        let digest = if options.digests == Digests::Crc32c { "CRC32C" } else { "None" };
        let operational = format!(
            "HeaderDigest={digest}\0DataDigest={digest}\0InitialR2T=Yes\0ImmediateData=Yes\0MaxBurstLength=1048576\0\
             FirstBurstLength=65536\0MaxOutstandingR2T=1\0MaxConnections=1\0DataPDUInOrder=Yes\0\
             DataSequenceInOrder=Yes\0ErrorRecoveryLevel=0\0DefaultTime2Wait=0\0DefaultTime2Retain=0\0\
             MaxRecvDataSegmentLength=262144\0"
        );
        let answer = login_step(&mut stream, options, OPERATIONAL_TO_FULL, &operational, 1).await?;
        let keys = parse_keys(&answer.data);
        let accepted = |key: &str| keys.get(key).is_some_and(|value| value == digest);
        if !(accepted("HeaderDigest") && accepted("DataDigest")) {
            return Err(io::Error::other(format!("digests {digest} not accepted: {keys:?}")));
        }
        Ok(Self::start(stream, options.digests, &answer, &keys))
    }

    fn start(stream: TcpStream, digests: Digests, answer: &Pdu, keys: &BTreeMap<String, String>) -> Self {
        let number =
            |key: &str, default: usize| keys.get(key).and_then(|v| v.parse().ok()).unwrap_or(default);
        let target_segment_bytes = number("MaxRecvDataSegmentLength", 8192);
        let is_immediate = keys.get("ImmediateData").is_none_or(|value| value == "Yes");
        let first_burst = number("FirstBurstLength", 65536).min(target_segment_bytes);
        let (outgoing, queue) = mpsc::unbounded_channel();
        let state = State {
            next_cmd_sn: answer.word(28),
            max_cmd_sn: answer.word(32),
            exp_stat_sn: answer.word(24).wrapping_add(1),
            next_tag: 1,
            pending: BTreeMap::new(),
            dead: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            window_moved: Notify::new(),
            outgoing,
            target_segment_bytes,
            immediate_bytes: if is_immediate { first_burst } else { 0 },
        });
        let (read_half, write_half) = stream.into_split();
        let reader = tokio::spawn(read_loop(Arc::clone(&shared), read_half, digests));
        let writer = tokio::spawn(write_loop(Arc::clone(&shared), write_half, queue, digests));
        Self { shared, tasks: [reader, writer] }
    }

    /// Sends a CDB and waits for its status. A command without an answer in time ends the session.
    pub(crate) async fn command(
        &self,
        lun: u16,
        cdb: [u8; 16],
        transfer: Transfer,
    ) -> Result<Vec<u8>, HostError> {
        let sent = async {
            let answer = self.shared.send(lun, cdb, transfer).await?;
            answer.await.unwrap_or_else(|_| Err(HostError::Unknown("session ended".into())))
        };
        match tokio::time::timeout(COMMAND_LIMIT, sent).await {
            Ok(result) => result,
            Err(_) => {
                self.shared.die("a command had no answer in time");
                Err(HostError::Unknown("no answer in time".into()))
            }
        }
    }

    /// Whether a new session is needed.
    pub(crate) fn is_dead(&self) -> bool {
        self.shared.lock().dead.is_some()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn die(&self, why: &str) {
        let mut state = self.lock();
        state.dead.get_or_insert_with(|| why.to_owned());
        state.pending.clear();
        drop(state);
        self.window_moved.notify_waiters();
    }

    async fn send(&self, lun: u16, cdb: [u8; 16], transfer: Transfer) -> Result<Answer, HostError> {
        loop {
            let moved = self.window_moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if let Some(answer) = self.try_send(lun, &cdb, &transfer)? {
                return Ok(answer);
            }
            moved.await;
        }
    }

    /// Sends if the window is open. Numbering and queueing are one step, so that commands travel in CmdSN order.
    fn try_send(&self, lun: u16, cdb: &[u8; 16], transfer: &Transfer) -> Result<Option<Answer>, HostError> {
        let mut state = self.lock();
        if let Some(why) = &state.dead {
            return Err(HostError::Unknown(why.clone()));
        }
        let distance = state.max_cmd_sn.wrapping_sub(state.next_cmd_sn);
        if distance >= 1 << 31 {
            return Ok(None);
        }
        let (flags, length, out) = match transfer {
            Transfer::None => (FINAL, 0, bytes::Bytes::new()),
            Transfer::In(length) => (FINAL | READ, *length, bytes::Bytes::new()),
            Transfer::Out(data) => {
                (FINAL | WRITE, u32::try_from(data.len()).expect("a command is short"), data.clone())
            }
        };
        let immediate = out.len().min(self.immediate_bytes);
        let mut pdu = Pdu::new(SCSI_COMMAND, flags | SIMPLE, out[..immediate].to_vec());
        pdu.header[8..10].copy_from_slice(&lun.to_be_bytes());
        pdu.header[32..48].copy_from_slice(cdb);
        let tag = state.next_tag;
        state.next_tag = (state.next_tag + 1) % u32::MAX;
        pdu.set_word(16, tag);
        pdu.set_word(20, length);
        pdu.set_word(24, state.next_cmd_sn);
        pdu.set_word(28, state.exp_stat_sn);
        state.next_cmd_sn = state.next_cmd_sn.wrapping_add(1);
        let into = if let Transfer::In(length) = transfer {
            vec![0; usize::try_from(*length).expect("a command is short")]
        } else {
            Vec::new()
        };
        let (done, answer) = oneshot::channel();
        state.pending.insert(tag, Pending { out, into, done });
        let _ = self.outgoing.send(pdu); // a closed queue means a dead session, which clears `pending`
        Ok(Some(answer))
    }

    fn handle(&self, pdu: Pdu) -> Result<(), String> {
        let mut state = self.lock();
        if pdu.opcode() != R2T && !(pdu.opcode() == DATA_IN && pdu.header[1] & STATUS_IN_DATA == 0) {
            state.exp_stat_sn = pdu.word(24).wrapping_add(1);
        }
        let max_cmd_sn = pdu.word(32);
        if max_cmd_sn.wrapping_sub(state.max_cmd_sn) < 1 << 31 {
            state.max_cmd_sn = max_cmd_sn;
            self.window_moved.notify_waiters();
        }
        match pdu.opcode() {
            SCSI_RESPONSE => finish(&mut state, &pdu, scsi_status(&pdu)),
            DATA_IN => handle_data_in(&mut state, &pdu),
            R2T => self.handle_r2t(&state, &pdu),
            NOP_IN => {
                if pdu.word(20) != RESERVED_TAG {
                    let mut pong = Pdu::new(NOP_OUT | IMMEDIATE, FINAL, pdu.data.clone());
                    pong.set_word(16, RESERVED_TAG);
                    pong.set_word(20, pdu.word(20));
                    pong.set_word(24, state.next_cmd_sn);
                    pong.set_word(28, state.exp_stat_sn);
                    let _ = self.outgoing.send(pong);
                }
                Ok(())
            }
            other => Err(format!("PDU {other:02x}h ends the session")),
        }
    }

    fn handle_r2t(&self, state: &State, pdu: &Pdu) -> Result<(), String> {
        let tag = pdu.word(16);
        let pending = state.pending.get(&tag).ok_or("R2T for no command of ours")?;
        let mut offset = usize::try_from(pdu.word(40)).map_err(|_| "R2T offset")?;
        let length = usize::try_from(pdu.word(44)).map_err(|_| "R2T length")?;
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= pending.out.len())
            .ok_or("R2T beyond the data")?;
        let mut data_sn = 0;
        while offset < end {
            let next = end.min(offset + self.target_segment_bytes);
            let flags = if next == end { FINAL } else { 0 };
            let mut out = Pdu::new(DATA_OUT, flags, pending.out[offset..next].to_vec());
            out.header[8..16].copy_from_slice(&pdu.header[8..16]);
            out.set_word(16, tag);
            out.set_word(20, pdu.word(20));
            out.set_word(28, state.exp_stat_sn);
            out.set_word(36, data_sn);
            out.set_word(40, u32::try_from(offset).map_err(|_| "offset")?);
            let _ = self.outgoing.send(out);
            data_sn += 1;
            offset = next;
        }
        Ok(())
    }
}

fn handle_data_in(state: &mut State, pdu: &Pdu) -> Result<(), String> {
    let pending = state.pending.get_mut(&pdu.word(16)).ok_or("data for no command of ours")?;
    let offset = usize::try_from(pdu.word(40)).map_err(|_| "offset")?;
    let end = offset + pdu.data.len();
    pending.into.get_mut(offset..end).ok_or("more data than asked for")?.copy_from_slice(&pdu.data);
    if pdu.header[1] & STATUS_IN_DATA != 0 {
        let status = if pdu.header[3] == 0 { Ok(()) } else { Err(busy(pdu.header[3])) };
        return finish(state, pdu, status);
    }
    Ok(())
}

fn finish(state: &mut State, pdu: &Pdu, status: Result<(), HostError>) -> Result<(), String> {
    let pending = state.pending.remove(&pdu.word(16)).ok_or("status for no command of ours")?;
    let _ = pending.done.send(status.map(|()| {
        let mut data = pending.into;
        if pdu.header[1] & UNDERFLOW != 0 {
            let residual = usize::try_from(pdu.word(44)).unwrap_or(usize::MAX);
            data.truncate(data.len().saturating_sub(residual));
        }
        data
    }));
    Ok(())
}

/// Status and sense of a SCSI Response PDU.
fn scsi_status(pdu: &Pdu) -> Result<(), HostError> {
    if pdu.header[2] != 0 {
        return Err(HostError::Unknown(format!("iSCSI response {:02x}h", pdu.header[2])));
    }
    match pdu.header[3] {
        0 => Ok(()),
        2 => {
            let sense = pdu.data.get(2..).unwrap_or_default();
            let byte = |at: usize| sense.get(at).copied().unwrap_or(0);
            let (key, high, low) = match byte(0) & 0x7f {
                0x72 | 0x73 => (byte(1), byte(2), byte(3)),
                _ => (byte(2), byte(12), byte(13)),
            };
            Err(HostError::Refused { key: key & 0x0f, code: u16::from_be_bytes([high, low]) })
        }
        status => Err(busy(status)),
    }
}

/// BUSY, TASK SET FULL and the like: told apart from sense keys by a key of FFh.
fn busy(status: u8) -> HostError {
    HostError::Refused { key: 0xff, code: u16::from(status) }
}

async fn read_loop(shared: Arc<Shared>, mut stream: OwnedReadHalf, digests: Digests) {
    loop {
        let handled = match Pdu::read(&mut stream, digests).await {
            Ok(pdu) => shared.handle(pdu),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = handled {
            return shared.die(&why);
        }
    }
}

async fn write_loop(
    shared: Arc<Shared>,
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Pdu>,
    digests: Digests,
) {
    while let Some(pdu) = queue.recv().await {
        let mut bytes = pdu.encode(digests);
        while let Ok(more) = queue.try_recv() {
            bytes.extend_from_slice(&more.encode(digests));
        }
        if let Err(error) = stream.write_all(&bytes).await {
            return shared.die(&error.to_string());
        }
    }
}

async fn login_step(
    stream: &mut TcpStream,
    options: &SessionOptions,
    stages: u8,
    text: &str,
    exp_stat_sn: u32,
) -> io::Result<Pdu> {
    let mut pdu = Pdu::new(LOGIN | IMMEDIATE, TRANSIT | stages, text.as_bytes().to_vec());
    pdu.header[8..12].copy_from_slice(&[0x80, 0x48, 0x46, 0x54]); // ISID type "random"
    pdu.header[12..14].copy_from_slice(&options.qualifier.to_be_bytes());
    pdu.set_word(16, 0);
    pdu.set_word(24, 1);
    pdu.set_word(28, exp_stat_sn);
    stream.write_all(&pdu.encode(Digests::None)).await?;
    let answer = Pdu::read(stream, Digests::None).await?;
    let status = u16::from_be_bytes([answer.header[36], answer.header[37]]);
    let is_done = answer.header[1] & (TRANSIT | 0x0f) == TRANSIT | stages;
    if answer.opcode() != LOGIN_RESPONSE || status != 0 || !is_done {
        let (opcode, flags) = (answer.header[0], answer.header[1]);
        return Err(io::Error::other(format!(
            "answer {opcode:02x}h flags {flags:02x}h status {status:04x}h"
        )));
    }
    Ok(answer)
}

fn parse_keys(data: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(data);
    text.split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

const IMMEDIATE: u8 = 0x40;
const NOP_OUT: u8 = 0x00;
const SCSI_COMMAND: u8 = 0x01;
const LOGIN: u8 = 0x03;
const DATA_OUT: u8 = 0x05;
const NOP_IN: u8 = 0x20;
const SCSI_RESPONSE: u8 = 0x21;
const LOGIN_RESPONSE: u8 = 0x23;
const DATA_IN: u8 = 0x25;
const R2T: u8 = 0x31;
const FINAL: u8 = 0x80;
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const SIMPLE: u8 = 0x01;
const TRANSIT: u8 = 0x80;
const SECURITY_TO_OPERATIONAL: u8 = 0x01;
const OPERATIONAL_TO_FULL: u8 = 0x07;
const STATUS_IN_DATA: u8 = 0x01;
const UNDERFLOW: u8 = 0x02;
const RESERVED_TAG: u32 = 0xffff_ffff;
