//! A path of a simulated host: it logs in when it has to, with the same session identifier every time.

use crate::cluster::{Cluster, NAMES, target_name};
use crate::support::random::Random;
use crate::support::wof::{Durability, HostError, HostPort, Place, SECTOR_BYTES};
use bytes::Bytes;
use holdfast::channel::host::{self, HostLun, lun};
use holdfast::channel::initiator::{Connector, SessionOptions};
use holdfast_iscsi::pdu::Isid;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// See the module's text.
pub(crate) struct SimPort {
    connector: Connector,
    array: &'static str,
    portal: u16,
    options: SessionOptions,
    volumes: u16,
    think_ms: u64,
    random: std::sync::Mutex<Random>,
    luns: Mutex<Option<Arc<Vec<HostLun>>>>,
}

impl SimPort {
    /// A path from the machine `label` to an array; nothing is connected yet.
    pub(crate) fn new(cluster: &Cluster, label: &str, number: u8, array: usize) -> Self {
        let options = SessionOptions {
            isid: Some(Isid([0x80, 0, 0, 0, 0, number])),
            initial_r2t: number % 2 == 1,
            login_timeout: LIMIT,
            ping: Duration::from_secs(1),
            ..SessionOptions::default()
        };
        Self {
            connector: cluster.connector(label),
            array: NAMES[array],
            portal: 3260 + u16::from(number % 2),
            options,
            volumes: cluster.shape.volumes,
            think_ms: 0,
            random: std::sync::Mutex::new(Random::new(u64::from(number))),
            luns: Mutex::default(),
        }
    }

    /// The same with up to this time before each command, so that a load lasts.
    pub(crate) fn thinking_ms(self, think_ms: u64) -> Self {
        Self { think_ms, ..self }
    }

    async fn luns(&self) -> Result<Arc<Vec<HostLun>>, HostError> {
        let mut slot = self.luns.lock().await;
        if let Some(luns) = slot.as_ref() {
            return Ok(luns.clone());
        }
        let address = format!("{}:{}", self.array, self.portal);
        let session = self.connector.session(&address, &target_name(self.array), &self.options).await;
        let session = session.map_err(|error| HostError::Unknown(error.to_string()))?;
        let mut luns = Vec::new();
        for number in 1..=self.volumes {
            luns.push(HostLun::open(session.clone(), lun(number), LIMIT).await.map_err(translate)?);
        }
        let luns = Arc::new(luns);
        *slot = Some(luns.clone());
        Ok(luns)
    }

    /// Runs a command; a session that broke is forgotten.
    async fn with<T>(
        &self,
        volume: u32,
        run: impl AsyncFn(&HostLun) -> Result<T, host::HostError>,
    ) -> Result<T, HostError> {
        if self.think_ms > 0 {
            let think_ms = self.random.lock().unwrap().below(self.think_ms);
            self.connector.clock.sleep(Duration::from_millis(think_ms)).await;
        }
        let luns = self.luns().await?;
        let result = run(&luns[usize::try_from(volume).unwrap()]).await;
        if let Err(host::HostError::Session(_)) = &result {
            let mut slot = self.luns.lock().await;
            if slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, &luns)) {
                *slot = None;
            }
        }
        result.map_err(translate)
    }
}

impl HostPort for SimPort {
    async fn write(&self, place: Place, data: Bytes, durability: Durability) -> Result<(), HostError> {
        let durability = match durability {
            Durability::Plain => host::Durability::Cached,
            Durability::Fua => host::Durability::Forced,
        };
        self.with(place.volume, async |lun| lun.write(place.lba, data.clone(), durability).await).await
    }

    /// Half of the places are zeroed with UNMAP, the others with WRITE SAME of a block of zeros.
    async fn unmap(&self, place: Place) -> Result<(), HostError> {
        if place.lba.is_multiple_of(2) {
            return self.with(place.volume, async |lun| lun.unmap(&[(place.lba, place.sectors)]).await).await;
        }
        self.with(place.volume, async |lun| {
            lun.write_same(place.lba, place.sectors, &[0; SECTOR_BYTES]).await
        })
        .await
    }

    async fn sync(&self, volume: u32) -> Result<(), HostError> {
        self.with(volume, async |lun| lun.synchronize_cache().await).await
    }

    async fn read(&self, place: Place) -> Result<Bytes, HostError> {
        self.with(place.volume, async |lun| lun.read(place.lba, place.sectors).await.map(Bytes::from)).await
    }
}

/// A host writes garbage to volumes of an array, S-VOLs for example: how many of these writes were accepted.
pub(crate) async fn scribble(cluster: &Cluster, array: usize, random: &mut Random, writes: usize) -> usize {
    let port = SimPort::new(cluster, "reader", 7, array);
    let sectors = (cluster.shape.volume_kib << 10) / u64::try_from(SECTOR_BYTES).unwrap();
    let mut accepted = 0;
    for _ in 0..writes {
        let volume = u32::try_from(random.below(u64::from(cluster.shape.volumes))).unwrap();
        let length = 1 + random.below(16);
        let place =
            Place { volume, lba: random.below(sectors - length), sectors: u32::try_from(length).unwrap() };
        let garbage = vec![0xA5; usize::try_from(length).unwrap() * SECTOR_BYTES];
        let durability = if random.percent(30) { Durability::Fua } else { Durability::Plain };
        accepted += usize::from(port.write(place, Bytes::from(garbage), durability).await.is_ok());
    }
    accepted
}

fn translate(error: host::HostError) -> HostError {
    match error.sense() {
        Some((key, code, qualifier)) => {
            HostError::Refused { key, code: u16::from_be_bytes([code, qualifier]) }
        }
        None => HostError::Unknown(error.to_string()),
    }
}

/// Limit of a login and of a command.
const LIMIT: Duration = Duration::from_secs(4);
