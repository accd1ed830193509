//! The LUNs of a target, and who is logged in to it.

use super::lun::LunUnit;
use holdfast_iscsi::name::IscsiName;
use holdfast_scsi::{Lun, NexusId, UnitAttention};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The LUNs of a target; they may change while sessions are open. Each unit knows all sessions, also those that began before it was shown.
#[derive(Default)]
pub struct LunMap(RwLock<Shown>);

#[derive(Default)]
struct Shown {
    units: BTreeMap<u16, Arc<LunUnit>>,
    sessions: BTreeMap<NexusId, IscsiName>,
}

impl LunMap {
    /// Shows a unit under a number.
    pub fn insert(&self, lun: u16, unit: Arc<LunUnit>) {
        let mut shown = self.shown_mut();
        for (nexus, initiator) in &shown.sessions {
            unit.attach(*nexus, initiator);
        }
        shown.units.insert(lun, unit);
    }

    /// Shows a unit no more. Commands that have begun end as they would.
    pub fn remove(&self, lun: u16) {
        self.shown_mut().units.remove(&lun);
    }

    pub(super) fn attach(&self, nexus: NexusId, initiator: &IscsiName) {
        let mut shown = self.shown_mut();
        for unit in shown.units.values() {
            unit.attach(nexus, initiator);
        }
        shown.sessions.insert(nexus, initiator.clone());
    }

    pub(super) fn detach(&self, nexus: NexusId) {
        let mut shown = self.shown_mut();
        for unit in shown.units.values() {
            unit.detach(nexus);
        }
        shown.sessions.remove(&nexus);
    }

    /// Hosts are told that LUNs came or went.
    pub fn tell_of_change(&self) {
        for (_, unit) in self.all() {
            unit.unit().raise_unit_attention(UnitAttention::ReportedLunsChanged);
        }
    }

    /// The unit under a number.
    #[must_use]
    pub fn get(&self, lun: u16) -> Option<Arc<LunUnit>> {
        self.shown().units.get(&lun).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<(u16, Arc<LunUnit>)> {
        self.shown().units.iter().map(|(lun, unit)| (*lun, unit.clone())).collect()
    }

    pub(super) fn list(&self) -> Vec<Lun> {
        self.shown().units.keys().filter_map(|lun| Lun::new(*lun)).collect()
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown_mut(&self) -> RwLockWriteGuard<'_, Shown> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::{NORMAL, Session, logical_unit, sense, sent, status};
    use super::*;
    use crate::channel::storage::{Execution, Nexus};
    use crate::copy::tests::rig::{Choice, Rig, life};
    use crate::volume::kind::InitiatorRule;
    use holdfast_scsi::Access;

    const READER: &str = "iqn.2026-11.io.holdfast:reader";
    const ATTENTION: (u8, u8) = (6, 0x2A);
    const PROTECTED: (u8, u8) = (7, 0x27);

    async fn is_written(session: &Session, lun: u16, byte: u8) -> bool {
        session.written(lun, 0, byte, 0).await.status == 0
    }

    fn test_unit_ready(session: &Session, lun: u16) -> Execution {
        session.command(lun, [0; 16], None)
    }

    /// EXTENDED COPY of a block of the unit to another place of it.
    async fn copies(session: &Session, lun: u16) -> u8 {
        let naa = logical_unit(lun, Access::ReadWrite).identity().naa.to_bytes();
        let mut list = vec![0; 16];
        (list[1], list[3], list[11]) = (0x18, 32, 28); // NO LIST ID
        let mut target = [0; 32];
        (target[0], target[4], target[5], target[7], target[30]) = (0xE4, 1, 3, 16, 2);
        target[8..24].copy_from_slice(&naa);
        list.extend(target);
        list.extend([2, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 1]);
        list.extend([8_u64.to_be_bytes(), 16_u64.to_be_bytes()].as_flattened());
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x83, u8::try_from(list.len()).unwrap());
        let length = u32::try_from(list.len()).unwrap();
        let Execution::Receive(receive) = session.command(lun, cdb, Some(length)) else {
            panic!("it takes a list")
        };
        status(super::super::figures::sent_bytes(receive, &list).await).await.status
    }

    #[test]
    fn one_host_only_reads_what_another_one_writes() {
        life(async {
            let rig = Rig::new(Choice::default()).await;
            let writer = Session::new(&rig).await;
            let luns = writer.luns.clone();
            let reader = Session::at(&rig, luns.clone(), Nexus::of_for_tests(2, READER));
            assert!(is_written(&reader, NORMAL, 1).await && copies(&reader, NORMAL).await == 0);
            let unit = luns.get(NORMAL).unwrap();
            unit.set_read_only_for(&[InitiatorRule::Named(READER.parse().unwrap())]);
            // The next command says it, the one behind it is refused; who may still write hears nothing.
            assert_eq!(sense(reader.write(NORMAL, 0, 1, 0)), ATTENTION);
            assert_eq!(sense(reader.write(NORMAL, 0, 1, 0)), PROTECTED);
            assert!(copies(&reader, NORMAL).await != 0, "the copy would write it");
            assert!(is_written(&writer, NORMAL, 2).await && copies(&writer, NORMAL).await == 0);
            assert_eq!(reader.read(NORMAL, 0).await[0], 2);
            // The same once more is no news.
            unit.set_read_only_for(&[InitiatorRule::Named(READER.parse().unwrap())]);
            assert_eq!(sense(reader.write(NORMAL, 0, 1, 0)), PROTECTED);
            // Whoever comes later is known by name.
            let again = Session::at(&rig, luns.clone(), Nexus::of_for_tests(3, READER));
            assert_eq!(sense(again.write(NORMAL, 0, 1, 0)), PROTECTED);
            unit.set_read_only_for(&[InitiatorRule::Any]);
            assert_eq!(sense(writer.write(NORMAL, 0, 1, 0)), ATTENTION);
            assert_eq!(sense(writer.write(NORMAL, 0, 1, 0)), PROTECTED);
            unit.set_read_only_for(&[]);
            for session in [&writer, &reader, &again] {
                assert_eq!(sense(session.write(NORMAL, 0, 1, 0)), ATTENTION);
                assert!(is_written(session, NORMAL, 3).await);
            }
        });
    }

    /// A write for which data is on its way ends as it would, as where a LUN is taken away.
    #[test]
    fn what_was_admitted_before_ends_as_it_would() {
        life(async {
            let rig = Rig::new(Choice::default()).await;
            let session = Session::new(&rig).await;
            let Execution::Receive(receive) = session.write(NORMAL, 0, 1, 0) else { panic!("it is a write") };
            session.luns.get(NORMAL).unwrap().set_read_only_for(&[InitiatorRule::Any]);
            assert_eq!(status(sent(receive, 7).await).await.status, 0);
        });
    }

    /// Before, a unit that was shown to sessions that were there already told them nothing, ever.
    #[test]
    fn a_unit_that_is_shown_later_knows_who_is_there() {
        life(async {
            let rig = Rig::new(Choice::default()).await;
            let session = Session::new(&rig).await;
            let volume = session.luns.get(NORMAL).unwrap().volume.clone();
            let later = 33;
            let unit = Arc::new(LunUnit::new(logical_unit(later, Access::ReadWrite), volume));
            unit.set_read_only_for(&[InitiatorRule::Any]);
            session.luns.insert(later, unit.clone());
            assert_eq!(sense(session.write(later, 0, 1, 0)), PROTECTED);
            unit.set_read_only_for(&[]);
            assert_eq!(sense(test_unit_ready(&session, later)), ATTENTION);
            assert!(is_written(&session, later, 1).await);
        });
    }
}
