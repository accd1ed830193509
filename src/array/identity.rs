//! Who a volume is to hosts: its identity, and whether another array shows the same one (decision 25).

use crate::io::lun::{LunUnit, Shared};
use crate::volume::name::ArrayNumber;
use crate::volume::record::VolumeRecord;
use crate::volume::shown::SharedVolume;
use holdfast_scsi::{Access, AsciiText, Identity, Naa};

/// What a volume says it is, to whoever asks by INQUIRY; `None` if a name of it is none that SCSI can carry.
pub(super) fn identity(
    record: &VolumeRecord,
    product: &str,
    target: &str,
    array: ArrayNumber,
) -> Option<Identity> {
    // Unique among linked arrays, whatever they show.
    let port = u16::try_from(array.0).ok()?;
    let (serial, naa) = names(record)?;
    Some(Identity {
        product: AsciiText::new(product)?,
        revision: AsciiText::new("1")?,
        serial,
        naa,
        target_name: AsciiText::new(target)?,
        relative_port: port,
        portal_group: 1,
        target_port_group: port,
    })
}

/// What of its names is the same at every array that shows the unit.
fn names(record: &VolumeRecord) -> Option<(AsciiText<64>, Naa)> {
    let mut naa = record.shown().0.to_be_bytes();
    naa[0] = 0x60 | (naa[0] & 0x0f);
    Some((AsciiText::new(&record.shown().to_string())?, Naa::new(naa)?))
}

/// What hosts see of a volume at one LUN follows from its state.
pub(super) fn show(unit: &LunUnit, record: &VolumeRecord, shared: Option<SharedVolume>, access: Access) {
    let known = unit.unit().identity().clone();
    if let Some((serial, naa)) = names(record) {
        unit.set_identity(Identity { serial, naa, ..known });
    }
    let ports = shared.and_then(|shared| Some((shared, u16::try_from(shared.other.0).ok()?)));
    let Some((shared, other_ports)) = ports else {
        unit.set_shared(None);
        unit.set_access(access);
        unit.refresh_atomic(false);
        return;
    };
    // What is failed is so in every state; all else follows in each admission.
    match (access, unit.unit().access()) {
        (Access::Failed, _) => unit.set_access(Access::Failed),
        (_, Access::Failed) => unit.set_access(Access::Standby),
        _ => {}
    }
    let is_active = shared.is_active && access == Access::ReadWrite;
    unit.set_shared(Some(Shared { other_ports, is_active, needs_group: shared.is_together }));
    unit.refresh_atomic(shared.is_started);
}
