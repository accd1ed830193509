//! The tests' own host and the foreign tools against a foreign target (tgt): what is found against Holdfast is then the
//! fault of Holdfast.

use crate::foreign_clients::exercise;
use crate::support::iscsi::{IscsiPort, PortOptions};
use crate::support::process::{expect_tool, run_tool};
use crate::support::proxy::{LinkState, Proxy};
use crate::support::random::seed_from_environment;
use crate::support::wof::{
    DurableRule, Geometry, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use holdfast::clock::{Clock, SystemClock};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const TARGET: &str = "iqn.2026-11.io.holdfast:stand-in";
pub(crate) const VOLUMES: u16 = 2;
pub(crate) const VOLUME_BYTES: u64 = 16 << 20;

/// A tgtd with its files.
pub(crate) struct ForeignTarget {
    control: u16,
    volumes: u16,
    child: Option<Child>,
    portal: String,
    directory: tempfile::TempDir,
}

impl ForeignTarget {
    /// Starts it on a control number of its own, which also decides the port.
    pub(crate) async fn start(control: u16) -> Self {
        Self::with(control, VOLUMES).await
    }

    /// The same with so many volumes.
    pub(crate) async fn with(control: u16, volumes: u16) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let portal = format!("127.0.0.1:{}", 30_000 + control);
        let mut target = Self { control, volumes, child: None, portal, directory };
        for lun in 1..=volumes {
            let file = std::fs::File::create(target.file(lun));
            file.and_then(|file| file.set_len(VOLUME_BYTES)).expect("a sparse file");
        }
        target.launch().await;
        target
    }

    /// SIGKILL; what it had acknowledged is in its files.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("a process of our own");
    }

    /// Starts it, again if it was killed, with the files that are there.
    pub(crate) async fn launch(&mut self) {
        let (control, portal) = (self.control, &self.portal);
        let child = Command::new("tgtd")
            .args(["-f", "-C", &control.to_string(), "--iscsi", &format!("portal={portal}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tgtd is installed by tests/run");
        self.child = Some(child);
        let clock = SystemClock::new();
        let mut tries = 0;
        while !run_tool(&mut admin(control, "show", "target", &[])).status.success() {
            tries += 1;
            assert!(tries < 500, "tgtd does not start");
            clock.sleep(Duration::from_millis(20)).await;
        }
        expect_tool(&mut admin(control, "new", "target", &["--tid", "1", "-T", TARGET]));
        for lun in 1..=self.volumes {
            let (path, lun) = (self.file(lun).display().to_string(), lun.to_string());
            expect_tool(&mut admin(
                control,
                "new",
                "logicalunit",
                &["--tid", "1", "--lun", &lun, "-b", &path],
            ));
            let thin = ["--tid", "1", "--lun", &lun, "--params", "thin_provisioning=1"];
            expect_tool(&mut admin(control, "update", "logicalunit", &thin));
        }
        expect_tool(&mut admin(control, "bind", "target", &["--tid", "1", "-I", "ALL"]));
    }

    /// "host:port".
    pub(crate) fn portal(&self) -> &str {
        &self.portal
    }

    /// The file of a volume.
    pub(crate) fn file(&self, lun: u16) -> std::path::PathBuf {
        self.directory.path().join(format!("lun{lun}"))
    }

    /// What foreign initiators call its first volume.
    pub(crate) fn url(&self) -> String {
        format!("iscsi://{}/{TARGET}/1", self.portal)
    }
}

impl Drop for ForeignTarget {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = (child.kill(), child.wait());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checked_writer_and_a_foreign_target_agree() {
    let target = ForeignTarget::start(177).await;
    let seed = seed_from_environment(31);
    let geometry = Geometry { sectors_per_block: 1, ..Geometry::new(u32::from(VOLUMES), VOLUME_BYTES / 512) };
    let ports = [0, 2, 4, 6] // without digests, which this target does not offer
        .map(|n| IscsiPort::new(PortOptions::new(&target.portal, TARGET, n, VOLUMES)));
    assert_eq!(ports[1].capacity(1).await, Ok((VOLUME_BYTES / 512, 512)));
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    let (clock, stop) = (SystemClock::new(), AtomicBool::new(false));
    let summary = writer.run(&ports, &clock, 16, Until { commands: 1_500, stop: &stop }).await;
    assert_eq!(summary.violations, []);
    assert_eq!(summary.refusals, [].into());
    assert!(summary.reads > 10 && summary.syncs > 5 && writer.is_settled(), "{summary:?}");
    let images = read_image(&ports[0], geometry).await.expect("the volumes can be read");
    let observed = Observed::from_images(writer.log(), &images);
    check_prefix(writer.log(), &observed).expect_clean("order");
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("everything is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checked_writer_survives_cut_half_open_and_slow_paths() {
    let target = ForeignTarget::start(180).await;
    let seed = seed_from_environment(32);
    let geometry = Geometry { sectors_per_block: 1, ..Geometry::new(u32::from(VOLUMES), VOLUME_BYTES / 512) };
    let proxy = Proxy::start(target.portal.clone()).await.expect("a free port");
    let ports = [IscsiPort::new(PortOptions::new(&proxy.address(), TARGET, 0, VOLUMES))];
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    let (clock, stop) = (SystemClock::new(), AtomicBool::new(false));
    let slow = LinkState::Slow { delay: Duration::from_millis(5), bytes_per_s: 20_000_000 };
    let until = |commands| Until { commands, stop: &stop };
    let (summary, ()) = tokio::join!(writer.run(&ports, &clock, 8, until(u64::MAX)), async {
        for state in [LinkState::Cut, LinkState::HalfOpen, slow, LinkState::Cut] {
            clock.sleep(Duration::from_millis(100)).await;
            proxy.set(state);
            clock.sleep(Duration::from_millis(300)).await;
            proxy.set(LinkState::Up);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(summary.violations, []);
    assert!(summary.retries > 0, "the path was broken while it was used: {summary:?}");
    stop.store(false, Ordering::Relaxed);
    // What was in flight at the end is sent again first.
    let calm = writer.run(&ports, &clock, 8, until(200)).await;
    assert_eq!(calm.violations, []);
    assert!(writer.is_settled(), "{calm:?}");
    let images = read_image(&ports[0], geometry).await.expect("the volumes can be read");
    check_prefix(writer.log(), &Observed::from_images(writer.log(), &images)).expect_clean("order");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_foreign_tools_work_against_a_foreign_target() {
    let target = ForeignTarget::start(178).await;
    exercise(&target.portal, TARGET, &target.url(), VOLUME_BYTES);
}

fn admin(control: u16, operation: &str, mode: &str, more: &[&str]) -> Command {
    let mut command = Command::new("tgtadm");
    command
        .args(["-C", &control.to_string(), "--lld", "iscsi", "--op", operation, "--mode", mode])
        .args(more);
    command
}
