//! `holdfast serve`: one array in the foreground, until a signal ends it.

use crate::array::env::Env;
use crate::array::{Array, Edges};
use crate::clock::{Clock, Entropy};
use crate::config::Config;
use crate::shell::command::Shell;
use crate::shell::socket::ManagementSocket;
use crate::shell::ssh::{SshServer, SshSettings};
use crate::shell::view::SshView;
use crate::web::WebServer;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the array until SIGTERM or SIGINT, then stops it cleanly. SIGHUP reloads nothing yet and says so. `takes_older_store`: the control
/// store may be an older copy than the units know.
///
/// # Errors
/// The array cannot be started, or not everything could be made durable at its end.
pub async fn serve(config: Config, takes_older_store: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let env = Env { takes_older_store, ..Env::real(&config)? };
    let (clock, entropy) = (env.clock.clone(), env.entropy.clone());
    let (path, clients) = (config.socket(), config.limits.shell_clients);
    let outside = config.clone();
    let array = Array::start(config, env).await?;
    let socket = ManagementSocket::bind(&path)?;
    let shell = Shell::new(array.clone(), clock.clone());
    let edge = match Edge::open(&outside, &array, shell.clone(), clock, entropy).await {
        Ok(edge) => edge,
        Err(error) => {
            stop(&array).await?;
            return Err(error);
        }
    };
    tracing::info!(array = %array.name(), portals = ?array.portals(), "serving");
    // Whoever started us without asking for readiness has no socket to tell it to.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let serving = socket.serve(shell, clients);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::warn!("SIGHUP: nothing of the configuration can be reloaded yet"),
            () = &mut serving => break,
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    drop(edge);
    stop(&array).await
}

async fn stop(array: &Arc<Array>) -> anyhow::Result<()> {
    array.stop().await?;
    tracing::info!("stopped cleanly");
    Ok(())
}

/// SSH and HTTP, on a thread of their own: whatever strangers make them compute, it is not the data path's time, and
/// none of its memory.
struct Edge(Option<Runtime>);

impl Edge {
    async fn open(
        config: &Config,
        array: &Arc<Array>,
        shell: Shell,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> anyhow::Result<Self> {
        if config.ssh.is_none() && config.web.is_none() {
            return Ok(Self(None));
        }
        let mut edges = Edges::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("edge")
            .enable_all()
            .build()?;
        let edge = Self(Some(runtime));
        let Some(runtime) = &edge.0 else { return Ok(edge) };
        if let Some(ssh) = &config.ssh {
            let settings = SshSettings {
                listen: ssh.listen,
                authorized_keys: ssh.authorized_keys.clone(),
                data_dir: config.array.data_dir.clone(),
            };
            let clock = clock.clone();
            let server =
                runtime.spawn(async move { SshServer::bind(&settings, clock, entropy).await }).await??;
            let (host_key, fingerprint) = server.host_key();
            let listen = server.address().to_string();
            tracing::info!(%listen, %fingerprint, "shell over SSH");
            edges.ssh = Some(SshView { listen, host_key, fingerprint });
            runtime.spawn(server.serve(shell));
        }
        if let Some(web) = &config.web {
            let listen = web.listen;
            let server = runtime.spawn(WebServer::bind(listen)).await??;
            let listen = server.address().to_string();
            tracing::info!(%listen, "metrics and health over HTTP");
            edges.web = Some(listen);
            runtime.spawn(server.serve(array.clone(), clock));
        }
        array.set_edges(edges);
        Ok(edge)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another one. What is cut off here changed nothing half-way:
        // designations are applied in one call.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
