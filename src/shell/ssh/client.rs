//! One connection: who it is, and what it may ask for.

use super::admission::Fault;
use super::keys::AuthorizedKeys;
use super::session::{Keyboard, Operator, Output, Window};
use super::{CHANNELS_MAX, Door, Place, USER, session};
use futures_util::FutureExt;
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

/// One connection, as the library sees its handler. What the library calls that is not here is refused by it.
pub(super) struct Client {
    door: Arc<Door>,
    peer: SocketAddr,
    place: Arc<Place>,
    /// Who it is, once the key has been proved.
    name: Option<String>,
    channels: BTreeMap<ChannelId, Open>,
    permit: Option<OwnedSemaphorePermit>,
}

/// An open session channel.
#[derive(Default)]
struct Open {
    window: Option<Window>,
    keyboard: Arc<Keyboard>,
    running: Option<Running>,
}

/// A command or a prompt at work; it ends with its channel.
struct Running {
    task: AbortHandle,
    /// It has ended and says its last words. The library does not tell when the client closes a channel that was
    /// closed from here.
    is_over: Arc<AtomicBool>,
}

impl Running {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over() {
            self.task.abort();
        }
    }
}

impl Client {
    pub(super) fn new(door: Arc<Door>, peer: SocketAddr, place: Arc<Place>) -> Self {
        Self { door, peer, place, name: None, channels: BTreeMap::new(), permit: None }
    }

    fn refuse(&self) -> Auth {
        self.place.note(Fault::Refused);
        Auth::reject()
    }

    /// Starts what a channel asked for; one thing in its life.
    fn start(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
        line: Option<Vec<u8>>,
    ) -> Result<(), russh::Error> {
        let (Some(name), Some(open)) = (&self.name, self.channels.get_mut(&channel)) else {
            return session.channel_failure(channel);
        };
        if open.running.is_some() {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        let output = Output::new(session.handle(), channel, open.window.is_some());
        let operator =
            Operator { shell: self.door.shell.clone(), name: name.clone(), from: self.peer.to_string() };
        let (keyboard, window) = (Arc::clone(&open.keyboard), open.window);
        let work = {
            let output = output.clone();
            async move {
                match line {
                    Some(line) => session::command(&operator, &output, window, &keyboard, &line).await,
                    None => session::shell(&operator, &output, window, &keyboard).await,
                }
            }
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&is_over);
        let task = tokio::spawn(async move {
            // A defect that panics ends this session and says so.
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            ending.store(true, Ordering::Release);
            output.end(ended.unwrap_or(session::EXIT_PANIC)).await;
        });
        open.running = Some(Running { task: task.abort_handle(), is_over });
        Ok(())
    }
}

impl Handler for Client {
    type Error = russh::Error;

    /// Whatever key is offered is asked for its signature, so that an offer teaches nothing.
    async fn auth_publickey_offered(&mut self, _: &str, _: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.name = None;
        let read = AuthorizedKeys::read(&self.door.authorized_keys);
        let authorized = match read {
            Ok(authorized) => authorized,
            Err(error) => {
                tracing::error!(%error, "nobody can come in over SSH");
                AuthorizedKeys::default()
            }
        };
        let found = authorized.find(key.public_key);
        let peer = self.peer;
        match found.filter(|_| user == USER) {
            Some(found) => {
                tracing::info!(%peer, who = %found.name, "SSH login");
                self.name = Some(found.name.clone());
                Ok(Auth::Accept)
            }
            None => {
                let fingerprint = super::keys::fingerprint(key.public_key);
                let user: String = user.chars().take(64).collect();
                tracing::info!(%peer, user = ?user, key = %fingerprint, "SSH login refused");
                Ok(self.refuse())
            }
        }
    }

    async fn auth_openssh_certificate(&mut self, _: &str, _: &Certificate) -> Result<Auth, Self::Error> {
        Ok(self.refuse())
    }

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, Self::Error> {
        Ok(self.refuse())
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        self.place.authenticated();
        self.permit = Arc::clone(&self.door.sessions).try_acquire_owned().ok();
        if self.permit.is_none() {
            session.disconnect(Disconnect::TooManyConnections, "too many sessions", "")?;
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.retain(|_, open| !open.running.as_ref().is_some_and(Running::is_over));
        if self.channels.len() >= CHANNELS_MAX {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        } else {
            self.channels.insert(channel.id(), Open::default());
            reply.accept().await;
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get(&channel) {
            open.keyboard.end();
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get(&channel) {
            open.keyboard.press(data);
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        columns: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.channels.get_mut(&channel) {
            Some(open) if open.window.is_none() && open.running.is_none() => {
                open.window = Some(Window::of(columns));
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get_mut(&channel)
            && open.window.is_some()
        {
            let window = Window::of(columns);
            open.window = Some(window);
            open.keyboard.resize(window);
        }
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.start(channel, session, None)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, session, Some(line.to_vec()))
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _: &mut Session) -> Result<(), Self::Error> {
        if matches!(signal, Sig::INT)
            && let Some(open) = self.channels.get(&channel)
        {
            open.keyboard.press(&[super::super::edit::CTRL_C]);
        }
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
