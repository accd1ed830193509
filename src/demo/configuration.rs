//! The three configurations of the demonstration, made for the ports and the directory at hand.

use crate::config::Config;
use anyhow::bail;
use std::fmt::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// The P-VOLs at alpha; their copies at beta and gamma are called `copy1` and `copy2`.
pub(super) const VOLUMES: [&str; 2] = ["data1", "data2"];

/// Where everything is.
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) ports: Ports,
}

/// One address for each array.
pub(super) struct Ports {
    pub(super) alpha: String,
    pub(super) beta: String,
    pub(super) gamma: String,
}

impl Ports {
    /// The usual ports where they are free, else others.
    pub(super) fn choose() -> anyhow::Result<Self> {
        Ok(Self { alpha: free(3260)?, beta: free(3262)?, gamma: free(3264)? })
    }
}

/// Name of an array's target for hosts.
pub(super) fn target_name(array: &str) -> String {
    format!("iqn.2026-11.io.holdfast:{array}")
}

impl Plan {
    /// The configuration of one array, through the same parser as a file.
    pub(super) fn config(&self, name: &str) -> anyhow::Result<Config> {
        let (number, port, level) = match name {
            "alpha" => (1, &self.ports.alpha, "raid5"),
            "beta" => (2, &self.ports.beta, "raid0"),
            _ => (3, &self.ports.gamma, "raid0"),
        };
        let mut text = self.array(name, number, port, level)?;
        match name {
            "alpha" => {
                text += &link("beta", 2, &self.ports.beta, "");
                text += &link("gamma", 3, &self.ports.gamma, "");
                text += GROUP;
            }
            // Each auxiliary on its own schedule: one as soon as there is something, one in intervals.
            "beta" => text += &link("alpha", 1, &self.ports.alpha, ""),
            _ => {
                let schedule = "read_interval = \"100ms\"\nrestore_interval = \"250ms\"\n";
                text += &link("alpha", 1, &self.ports.alpha, schedule);
            }
        }
        let path = self.dir.join(format!("{name}.toml"));
        Config::parse(&path, &text).map_err(|mistakes| {
            let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(all.join("\n"))
        })
    }

    fn array(&self, name: &str, number: u32, port: &str, level: &str) -> anyhow::Result<String> {
        let dir = utf8(&self.dir.join(name))?;
        let volumes = if name == "alpha" { VOLUMES } else { ["copy1", "copy2"] };
        let target = target_name(name);
        let mut text = format!(
            "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = {dir:?}\n[cache]\nmemory = \"96MiB\"\n\
             [[portal]]\nlisten = \"{port}\"\nserves = [\"hosts\", \"arrays\"]\n\
             [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"{level}\"\nstripe_unit = \"64KiB\"\nunits = [\n"
        );
        for unit in 0..3 {
            writeln!(text, "  {{ path = {:?}, size = \"72MiB\" }},", format!("{dir}/u{unit}"))?;
        }
        text += "]\n";
        for volume in volumes {
            writeln!(
                text,
                "[[provision.volume]]\nname = \"{volume}\"\nparity_group = \"pg0\"\nsize = \"32MiB\"\nthin = true"
            )?;
        }
        writeln!(text, "[[provision.volume]]\nname = \"jnl\"\nparity_group = \"pg0\"\nsize = \"64MiB\"")?;
        writeln!(
            text,
            "[[provision.target]]\niqn = \"{target}\"\ninitiators = [\"*\"]\n\
             luns = [{{ lun = 1, volume = \"{}\" }}, {{ lun = 2, volume = \"{}\" }}]",
            volumes[0], volumes[1]
        )?;
        Ok(text)
    }

    /// What a person does next.
    pub(super) fn how_to_connect(&self) -> String {
        let Ports { alpha, beta, gamma } = &self.ports;
        let socket = self.dir.join("alpha").join("holdfast.sock");
        format!(
            "\nThe arrays stay up until Ctrl-C. Connect a host:\n\
             \x20 iscsiadm -m discovery -t sendtargets -p {alpha} && iscsiadm -m node --login\n\
             \x20 iscsi-ls -s iscsi://{alpha}\n\
             \x20 qemu-img info iscsi://{alpha}/{}/1\n\
             The copies, read-only:\n\
             \x20 iscsi://{beta}/{}/1 and /2, iscsi://{gamma}/{}/1 and /2\n\
             The shell of each array:\n\
             \x20 holdfast --socket {} group show g1",
            target_name("alpha"),
            target_name("beta"),
            target_name("gamma"),
            socket.display(),
        )
    }
}

fn link(name: &str, number: u32, portal: &str, schedule: &str) -> String {
    let secret = "demonstration-only-secret";
    format!(
        "[[provision.link]]\nname = \"{name}\"\narray = {number}\nportal = [\"{portal}\"]\nsecret = \"{secret}\"\n{schedule}"
    )
}

fn utf8(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{} is not a name in UTF-8", path.display()),
    }
}

/// The address with the usual port, or with one that the system gives.
fn free(port: u16) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.to_string())
}

const GROUP: &str = r#"
[[provision.group]]
name = "g1"
svol_access = "read"
[[provision.journal]]
group = "g1"
volume = "jnl"
[[provision.journal]]
group = "g1"
volume = "jnl"
at = "beta"
[[provision.journal]]
group = "g1"
volume = "jnl"
at = "gamma"
[[provision.pair]]
name = "data1-beta"
group = "g1"
pvol = "data1"
svol = "beta:copy1"
[[provision.pair]]
name = "data2-beta"
group = "g1"
pvol = "data2"
svol = "beta:copy2"
[[provision.pair]]
name = "data1-gamma"
group = "g1"
pvol = "data1"
svol = "gamma:copy1"
[[provision.pair]]
name = "data2-gamma"
group = "g1"
pvol = "data2"
svol = "gamma:copy2"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configurations_are_without_mistakes() {
        let ports =
            Ports { alpha: "127.0.0.1:1".into(), beta: "127.0.0.1:2".into(), gamma: "127.0.0.1:3".into() };
        let plan = Plan { dir: "/nowhere".into(), ports };
        for name in ["alpha", "beta", "gamma"] {
            plan.config(name).unwrap();
        }
    }
}
