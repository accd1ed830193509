//! Login, the target's side (RFC 7143 sections 6.3 and 12.1).
//!
//! ```text
//!          first request                      proof accepted                     T to full feature
//! Start ----------------> Security(step) ----------------------> Operational ----------------------> Agreed
//!    |                         Passed ------------- T to full feature ------------------------------->  ^
//!    `--------- first request already operational, initiator need not prove anything ----> Operational -'
//! ```
//!
//! Invariants: [`Reply::Agreed`] comes only out of `Security(Passed)`, or out of `Operational`, which is entered
//! only from there or when the directory asks for no proof. Sessions are reinstated by the caller after `Agreed`, so
//! nobody touches a living session before it has proved who it is. A refusal ends the connection.

use crate::chap::{
    Algorithm, CHALLENGE_BYTES, Challenge, Credentials, Hex, MAX_CHALLENGE_BYTES, decode_binary,
};
use crate::discovery::{Access, Directory};
use crate::name::IscsiName;
use crate::params::{Negotiation, Offer, Parameters, Phase, SessionKind};
use crate::pdu::login::{LoginRequest, LoginResponse, LoginStatus, Stage, StageFlags, VERSION};
use crate::pdu::{Bhs, Cid, Isid, Itt, ResponseNumbers, Tsih};
use crate::text::{Pairs, TextBuilder, TextCollector, list_values};
use alloc::vec::Vec;
use sha2::{Digest as _, Sha256};

/// Requests of one login; a further one is refused, so that a login ends.
pub(crate) const MAX_EXCHANGES: u32 = 16;

/// Random bytes without end out of one seed.
#[derive(Clone)]
pub(crate) struct Entropy {
    seed: [u8; 32],
    count: u64,
}

impl Entropy {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, count: 0 }
    }

    fn next(&mut self) -> [u8; CHALLENGE_BYTES] {
        self.count += 1;
        let mut hash = Sha256::new();
        hash.update(self.seed);
        hash.update(self.count.to_le_bytes());
        hash.finalize().into()
    }
}

impl core::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Entropy(..)")
    }
}

/// Who has logged in, to what, and how both sides will talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// Name of the initiator, proved if the directory asked for that.
    pub initiator: IscsiName,
    /// The target of a normal session; none in a discovery session.
    pub target: Option<IscsiName>,
    /// Initiator session identifier. With the name and the portal group it says which session this one replaces.
    pub isid: Isid,
    /// Session that the initiator believes to exist; zero for a new one.
    pub tsih: Tsih,
    /// Connection identifier.
    pub cid: Cid,
    /// What is agreed.
    pub parameters: Parameters,
}

impl LoggedIn {
    /// Discovery or normal.
    #[must_use]
    pub fn kind(&self) -> SessionKind {
        if self.target.is_some() { SessionKind::Normal } else { SessionKind::Discovery }
    }
}

/// What to send after a request. The numbers in the response are still to be filled in.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The login goes on.
    Continue(LoginResponse, Vec<u8>),
    /// All is agreed: the response goes out once the caller has accepted the session.
    Agreed(LoginResponse, Vec<u8>, LoggedIn),
    /// Send this and close.
    Refuse(LoginResponse),
}

#[derive(Debug)]
enum State {
    Start,
    Security(Security),
    Operational,
}

#[derive(Debug)]
enum Security {
    /// No method chosen yet.
    AwaitMethod,
    /// CHAP chosen.
    AwaitAlgorithm,
    /// A challenge is out.
    AwaitProof(Challenge),
    /// Nothing (more) to prove.
    Passed,
}

/// Which nodes want to talk; known after the first request.
#[derive(Debug)]
struct Nodes {
    initiator: IscsiName,
    target: Option<IscsiName>,
    access: Access,
}

/// What must stay the same in every request of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leader {
    isid: Isid,
    tsih: Tsih,
    cid: Cid,
    itt: Itt,
}

/// An answer that does not fit one PDU waits here for the initiator to ask on.
#[derive(Debug)]
struct Rest {
    text: Vec<u8>,
    next: Option<Stage>,
}

/// The login of one connection.
#[derive(Debug)]
pub(crate) struct Login {
    portal_group_tag: u16,
    entropy: Entropy,
    state: State,
    nodes: Option<Nodes>,
    leader: Option<Leader>,
    negotiation: Negotiation,
    collector: TextCollector,
    rest: Option<Rest>,
    exchanges: u32,
    /// The answer to whatever comes, if no login is possible now.
    refused_with: Option<LoginStatus>,
}

impl Login {
    pub(crate) fn new(offer: Offer, portal_group_tag: u16, entropy: Entropy) -> Self {
        Self {
            portal_group_tag,
            entropy,
            state: State::Start,
            nodes: None,
            leader: None,
            negotiation: Negotiation::new(offer),
            collector: TextCollector::default(),
            rest: None,
            exchanges: 0,
            refused_with: None,
        }
    }

    /// The next request is refused, whatever it says.
    pub(crate) fn refuse_service(&mut self) {
        self.refused_with = Some(LoginStatus::SERVICE_UNAVAILABLE);
    }

    /// Takes one request with its text.
    pub(crate) fn handle(&mut self, directory: &dyn Directory, request: &LoginRequest, text: &[u8]) -> Reply {
        self.step(directory, request, text).unwrap_or_else(|status| Reply::Refuse(refusal(request, status)))
    }

    fn step(
        &mut self,
        directory: &dyn Directory,
        request: &LoginRequest,
        text: &[u8],
    ) -> Result<Reply, LoginStatus> {
        if let Some(status) = self.refused_with {
            return Err(status);
        }
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        self.check_leader(request)?;
        self.collector.push(text).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        if request.stage.is_continued {
            let stage = StageFlags { next: None, is_continued: false, current: request.stage.current };
            return Ok(Reply::Continue(response(request, stage), Vec::new()));
        }
        let text = self.collector.take();
        let pairs = Pairs::parse(&text).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        if let Some(rest) = self.rest.take() {
            return if pairs.is_empty() {
                self.reply(request, rest)
            } else {
                Err(LoginStatus::INITIATOR_ERROR)
            };
        }
        let mut out = TextBuilder::new();
        self.begin(directory, request, &pairs, &mut out)?;
        let phase = match request.stage.current {
            Stage::Security => {
                self.prove(&pairs, request.stage.next, &mut out)?;
                Phase::Security
            }
            Stage::Operational | Stage::FullFeature => Phase::Operational,
        };
        let kind = self.nodes.as_ref().map_or(SessionKind::Discovery, Nodes::kind);
        self.negotiation.answer(&pairs, phase, kind, &mut out).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        let next = request.stage.next.filter(|_| self.may_go_on());
        self.reply(request, Rest { text: out.into_bytes(), next })
    }

    fn check_leader(&mut self, request: &LoginRequest) -> Result<(), LoginStatus> {
        if request.version_min > VERSION {
            return Err(LoginStatus::UNSUPPORTED_VERSION);
        }
        let leader = Leader { isid: request.isid, tsih: request.tsih, cid: request.cid, itt: request.itt };
        if *self.leader.get_or_insert(leader) != leader {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let is_in_stage = match self.state {
            State::Start => true,
            State::Security(_) => request.stage.current == Stage::Security,
            State::Operational => request.stage.current == Stage::Operational,
        };
        if is_in_stage { Ok(()) } else { Err(LoginStatus::INITIATOR_ERROR) }
    }

    /// The first request says who wants what.
    fn begin(
        &mut self,
        directory: &dyn Directory,
        request: &LoginRequest,
        pairs: &Pairs<'_>,
        out: &mut TextBuilder,
    ) -> Result<(), LoginStatus> {
        if !matches!(self.state, State::Start) {
            let renames = ["InitiatorName", "TargetName", "SessionType"];
            let is_renamed = renames.iter().any(|key| pairs.get(key).is_some());
            return if is_renamed { Err(LoginStatus::INITIATOR_ERROR) } else { Ok(()) };
        }
        let name = |key| match pairs.get(key) {
            Some(name) => IscsiName::parse(name).ok_or(LoginStatus::INITIATOR_ERROR).map(Some),
            None => Ok(None),
        };
        let initiator = name("InitiatorName")?.ok_or(LoginStatus::MISSING_PARAMETER)?;
        let target = match pairs.get("SessionType") {
            Some("Discovery") => None,
            Some("Normal") | None => Some(name("TargetName")?.ok_or(LoginStatus::MISSING_PARAMETER)?),
            Some(_) => return Err(LoginStatus::SESSION_TYPE_NOT_SUPPORTED),
        };
        let access = directory.authorize(&initiator, target.as_ref());
        let security = match &access {
            Access::Denied => return Err(LoginStatus::AUTHORIZATION_FAILURE),
            Access::NotFound => return Err(LoginStatus::NOT_FOUND),
            Access::Open | Access::Chap(_) => Security::AwaitMethod,
        };
        self.state = match (request.stage.current, &access) {
            (Stage::Security, _) => State::Security(security),
            (Stage::Operational | Stage::FullFeature, Access::Open) => State::Operational,
            // Starting after the security stage is no way around it.
            (Stage::Operational | Stage::FullFeature, _) => return Err(LoginStatus::AUTHENTICATION_FAILURE),
        };
        if target.is_some() {
            out.push("TargetPortalGroupTag", self.portal_group_tag).map_err(|_| LoginStatus::TARGET_ERROR)?;
        }
        self.nodes = Some(Nodes { initiator, target, access });
        Ok(())
    }

    /// One step of the security stage.
    fn prove(
        &mut self,
        pairs: &Pairs<'_>,
        next: Option<Stage>,
        out: &mut TextBuilder,
    ) -> Result<(), LoginStatus> {
        let (State::Security(security), Some(nodes)) = (&self.state, &self.nodes) else {
            return Err(LoginStatus::INITIATOR_ERROR);
        };
        let following = match (security, &nodes.access) {
            (Security::AwaitMethod, Access::Open) => match pairs.get("AuthMethod") {
                Some(methods) if list_values(methods).any(|method| method == "None") => {
                    push(out, "AuthMethod", "None")?;
                    Security::Passed
                }
                Some(_) => return Err(LoginStatus::AUTHENTICATION_FAILURE),
                None if next.is_some() => Security::Passed,
                None => Security::AwaitMethod,
            },
            (Security::AwaitMethod, Access::Chap(_)) => match pairs.get("AuthMethod") {
                Some(methods) if list_values(methods).any(|method| method == "CHAP") => {
                    push(out, "AuthMethod", "CHAP")?;
                    Security::AwaitAlgorithm
                }
                None if next.is_none() => Security::AwaitMethod,
                _ => return Err(LoginStatus::AUTHENTICATION_FAILURE),
            },
            (Security::AwaitAlgorithm, Access::Chap(_)) => {
                Security::AwaitProof(challenge(&mut self.entropy, pairs, out)?)
            }
            (Security::AwaitProof(challenge), Access::Chap(credentials)) => {
                check_proof(challenge, credentials, pairs, out)?;
                Security::Passed
            }
            (Security::Passed, _) => Security::Passed,
            (_, Access::Open | Access::Denied | Access::NotFound) => {
                return Err(LoginStatus::AUTHENTICATION_FAILURE);
            }
        };
        self.state = State::Security(following);
        Ok(())
    }

    /// Whether the initiator may leave its stage.
    fn may_go_on(&self) -> bool {
        match self.state {
            State::Start | State::Security(Security::AwaitMethod) => false,
            State::Security(Security::AwaitAlgorithm | Security::AwaitProof(_)) => false,
            State::Security(Security::Passed) | State::Operational => true,
        }
    }

    fn reply(&mut self, request: &LoginRequest, mut rest: Rest) -> Result<Reply, LoginStatus> {
        let room = usize::try_from(self.negotiation.agreed().initiator_segment_bytes).unwrap_or(usize::MAX);
        let mut stage = StageFlags { is_continued: false, current: request.stage.current, next: rest.next };
        if rest.text.len() > room {
            let later = rest.text.split_off(room);
            stage.is_continued = true;
            stage.next = None;
            self.rest = Some(Rest { text: later, next: rest.next });
            return Ok(Reply::Continue(response(request, stage), rest.text));
        }
        match rest.next {
            Some(Stage::FullFeature) => {
                let nodes = self.nodes.as_ref().ok_or(LoginStatus::TARGET_ERROR)?;
                let login = LoggedIn {
                    initiator: nodes.initiator.clone(),
                    target: nodes.target.clone(),
                    isid: request.isid,
                    tsih: request.tsih,
                    cid: request.cid,
                    parameters: self.negotiation.agreed(),
                };
                return Ok(Reply::Agreed(response(request, stage), rest.text, login));
            }
            Some(Stage::Operational) => self.state = State::Operational,
            Some(Stage::Security) | None => {}
        }
        Ok(Reply::Continue(response(request, stage), rest.text))
    }
}

impl Nodes {
    fn kind(&self) -> SessionKind {
        if self.target.is_some() { SessionKind::Normal } else { SessionKind::Discovery }
    }
}

fn push(out: &mut TextBuilder, key: &str, value: impl core::fmt::Display) -> Result<(), LoginStatus> {
    out.push(key, value).map_err(|_| LoginStatus::TARGET_ERROR)
}

/// CHAP step 2: the initiator has offered algorithms.
fn challenge(
    entropy: &mut Entropy,
    pairs: &Pairs<'_>,
    out: &mut TextBuilder,
) -> Result<Challenge, LoginStatus> {
    let algorithms = pairs.get("CHAP_A").ok_or(LoginStatus::AUTHENTICATION_FAILURE)?;
    let algorithm = list_values(algorithms)
        .find_map(Algorithm::from_number)
        .ok_or(LoginStatus::AUTHENTICATION_FAILURE)?;
    let [identifier, ..] = entropy.next();
    let challenge = Challenge { algorithm, identifier, bytes: entropy.next() };
    push(out, "CHAP_A", algorithm.number())?;
    push(out, "CHAP_I", identifier)?;
    push(out, "CHAP_C", Hex(&challenge.bytes))?;
    Ok(challenge)
}

/// CHAP step 3: the initiator proves who it is, and may ask the same of the target.
fn check_proof(
    challenge: &Challenge,
    credentials: &Credentials,
    pairs: &Pairs<'_>,
    out: &mut TextBuilder,
) -> Result<(), LoginStatus> {
    let refused = LoginStatus::AUTHENTICATION_FAILURE;
    let name = pairs.get("CHAP_N").ok_or(refused)?;
    let proof = pairs.get("CHAP_R").ok_or(refused)?;
    if !challenge.is_answered(credentials.initiator(), name, proof) {
        return Err(refused);
    }
    let (identifier, value) = match (pairs.get("CHAP_I"), pairs.get("CHAP_C")) {
        (None, None) => return Ok(()),
        (Some(identifier), Some(value)) => (identifier, value),
        _ => return Err(refused),
    };
    let target = credentials.target().ok_or(refused)?;
    let identifier = crate::text::parse_number(identifier).and_then(|number| u8::try_from(number).ok());
    let mut bytes = [0; MAX_CHALLENGE_BYTES];
    let received = decode_binary(value, &mut bytes).ok_or(refused)?;
    // A challenge sent back would make this side compute the answer to its own question.
    if received == challenge.bytes {
        return Err(refused);
    }
    let response = challenge.algorithm.respond(identifier.ok_or(refused)?, &target.secret, received);
    push(out, "CHAP_N", &target.name)?;
    push(out, "CHAP_R", Hex(response.as_bytes()))
}

/// The response to a request whose header makes no sense.
pub(crate) fn refusal_of_malformed(bhs: &Bhs) -> LoginResponse {
    LoginResponse {
        stage: StageFlags { is_continued: false, current: Stage::Security, next: None },
        version_max: VERSION,
        version_active: VERSION,
        isid: Isid(bhs.take::<8, 6>()),
        tsih: Tsih::default(),
        itt: bhs.itt(),
        numbers: ResponseNumbers::default(),
        status: LoginStatus::INITIATOR_ERROR,
        data_bytes: 0,
    }
}

fn response(request: &LoginRequest, stage: StageFlags) -> LoginResponse {
    LoginResponse {
        stage,
        version_max: VERSION,
        version_active: VERSION,
        isid: request.isid,
        tsih: request.tsih,
        itt: request.itt,
        numbers: ResponseNumbers::default(),
        status: LoginStatus::SUCCESS,
        data_bytes: 0,
    }
}

/// The response that refuses a login.
fn refusal(request: &LoginRequest, status: LoginStatus) -> LoginResponse {
    let stage = StageFlags { is_continued: false, current: request.stage.current, next: None };
    LoginResponse { status, ..response(request, stage) }
}
