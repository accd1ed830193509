//! Nothing is visible that was not granted, and a host cannot speak as an array does (C3, C4).

use crate::support::iscsi::{IscsiPort, PortOptions, Session, SessionOptions, Transfer};
use crate::support::process::{Array, Layout, expect_tool};
use crate::support::wof::HostError;
use std::process::Command;

const OWNER: &str = "iqn.2026-11.io.holdfast:owner";
const STRANGER: &str = "iqn.2026-11.io.holdfast:stranger";
const PRIVATE: &str = "iqn.2026-11.io.holdfast:private";
const LINKED: &str = "iqn.2026-11.io.holdfast:beta.peer";
const PEER_TARGET: &str = "iqn.2026-11.io.holdfast:solo.peer";

/// An array with a target for everybody, one for [`OWNER`] alone, and a link to an array that is not there.
fn array_with_a_private_target(parent: &std::path::Path) -> Array {
    let array = Array::alone(parent, &Layout { volumes: 2, ..Layout::default() });
    let text = std::fs::read_to_string(array.config_path()).expect("the configuration is there");
    let mapped = "{ lun = 1, volume = \"data1\" }, { lun = 2, volume = \"data2\" }";
    assert!(text.contains(mapped), "both volumes are mapped: {text}");
    let text = text.replace(mapped, "{ lun = 1, volume = \"data1\" }");
    array.write_config(&format!(
        "{text}\n[[provision.target]]\niqn = \"{PRIVATE}\"\nluns = [{{ lun = 1, volume = \"data2\" }}]\n\
         initiators = [\"{OWNER}\"]\n\n\
         [[provision.link]]\nname = \"beta\"\narray = 2\nportal = [\"127.0.0.1:1\"]\n\
         secret = \"a-secret-that-no-host-has\"\n"
    ));
    array
}

fn login_of(array: &Array, initiator: &str, target: &str) -> SessionOptions {
    let mut session = PortOptions::new(array.portal(), target, 1, 1).session;
    session.initiator = initiator.to_owned();
    session
}

async fn refusal(options: &SessionOptions) -> String {
    match Session::login(options).await {
        Err(HostError::Unknown(why)) => why,
        other => panic!("{} must not get into {}: {other:?}", options.initiator, options.target),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_sees_and_enters_only_what_was_granted_to_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut array = array_with_a_private_target(directory.path());
    array.start().await;
    let url = format!("iscsi://{}/", array.portal());
    let listed = |initiator| expect_tool(Command::new("iscsi-ls").args(["-i", initiator]).arg(&url));
    let (stranger, owner) = (listed(STRANGER), listed(OWNER));
    assert!(stranger.contains(&array.target()) && owner.contains(&array.target()), "{stranger}{owner}");
    assert!(owner.contains(PRIVATE), "{owner}");
    assert!(!stranger.contains(PRIVATE), "{stranger}");
    assert!(!stranger.contains(PEER_TARGET) && !owner.contains(PEER_TARGET), "{stranger}{owner}");

    drop(Session::login(&login_of(&array, OWNER, PRIVATE)).await.expect("the owner gets in"));
    let hidden = refusal(&login_of(&array, STRANGER, PRIVATE)).await;
    let absent = refusal(&login_of(&array, STRANGER, "iqn.2026-11.io.holdfast:no-such")).await;
    assert_eq!(hidden, absent, "what was not granted looks like what does not exist");
    let peer = refusal(&login_of(&array, STRANGER, PEER_TARGET)).await;
    assert_eq!(peer, absent);
    let unproved = refusal(&login_of(&array, LINKED, PEER_TARGET)).await;
    assert_ne!(unproved, absent, "a linked array is known, and has to prove itself");
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_refused_the_commands_between_arrays_and_other_logical_units() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut array = array_with_a_private_target(directory.path());
    array.start().await;
    let port = IscsiPort::new(PortOptions::new(array.portal(), &array.target(), 1, 1));
    for opcode in 0xC0..=0xC6 {
        for lun in [0, 1] {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            match port.command(lun, cdb, Transfer::In(4096)).await {
                // INVALID COMMAND OPERATION CODE; where nothing is mapped: LOGICAL UNIT NOT SUPPORTED.
                Err(HostError::Refused { key: 5, code: 0x2000 }) if lun == 1 => {}
                Err(HostError::Refused { key: 5, code: 0x2500 }) if lun == 0 => {}
                other => panic!("{opcode:#x} to LUN {lun}: {other:?}"),
            }
        }
    }
    let other = port.capacity(2).await;
    assert!(matches!(other, Err(HostError::Refused { key: 5, code: 0x2500 })), "{other:?}");
    port.capacity(1).await.expect("its own LUN is there");
    array.stop().await;
}
