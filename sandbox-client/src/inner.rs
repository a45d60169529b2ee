//! What the clones of a sandbox share: its server, its sessions by id, its heartbeat.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use sandbox_types::{
    CreatedSession, DestroySession, DestroyedSession, ErrorCode, ExecuteRequest, SessionId, WarmupAnswer, WorkerId,
};
use tokio::{task::AbortHandle, time::sleep};

use crate::{
    background,
    builder::SandboxBuilder,
    client::{HttpServiceClient, data, is_missing},
    error::{ClientError, Result},
    spec::{NewSession, SessionName},
    start,
};

#[derive(Debug)]
pub(crate) struct Inner {
    /// Of the address that was given; a server that had to be started may be at another one.
    given: HttpServiceClient,
    settings: SandboxBuilder,
    /// Held while a server is looked for.
    starting: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
    sessions: Mutex<HashMap<SessionName, SessionId>>,
    /// A client for the runtime of this crate, made when it is first needed.
    apart: OnceLock<HttpServiceClient>,
}

#[derive(Debug)]
enum Phase {
    New,
    Open(Box<Open>),
    Closed,
}

#[derive(Debug)]
struct Open {
    client: HttpServiceClient,
    /// Keeps a server that was started for this client.
    _lifeline: Option<File>,
    log: Option<PathBuf>,
    heartbeat: Option<Beat>,
}

/// Ends the heartbeat when it is dropped.
#[derive(Debug)]
struct Beat(AbortHandle);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    pub(crate) fn new(given: HttpServiceClient, settings: SandboxBuilder) -> Self {
        Self {
            given,
            settings,
            starting: tokio::sync::Mutex::default(),
            phase: Mutex::new(Phase::New),
            sessions: Mutex::default(),
            apart: OnceLock::new(),
        }
    }

    pub(crate) fn worker(&self) -> &WorkerId {
        self.given.worker()
    }

    /// The address of the server, and the log of one that was started; none while there is none.
    pub(crate) fn server(&self) -> Option<(String, Option<PathBuf>)> {
        match &*self.phase() {
            Phase::Open(open) => Some((open.client.url().to_owned(), open.log.clone())),
            Phase::New | Phase::Closed => None,
        }
    }

    /// Lets go of the server.
    pub(crate) async fn close(&self) {
        let _no_start = self.starting.lock().await;
        let before = std::mem::replace(&mut *self.phase(), Phase::Closed);
        drop(before);
    }

    /// The sessions are meant no longer.
    pub(crate) fn forget_sessions(&self) {
        self.sessions().clear();
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionName, SessionId>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of the server, which is looked for if it was not yet.
    pub(crate) async fn client(self: &Arc<Self>) -> Result<HttpServiceClient> {
        if let Some(client) = self.open_client()? {
            return Ok(client);
        }
        Box::pin(self.start(false)).await?;
        self.open_client()?.ok_or(ClientError::Closed)
    }

    fn open_client(&self) -> Result<Option<HttpServiceClient>> {
        match &*self.phase() {
            Phase::Open(open) => Ok(Some(open.client.clone())),
            Phase::New => Ok(None),
            Phase::Closed => Err(ClientError::Closed),
        }
    }

    pub(crate) async fn start(self: &Arc<Self>, reopen: bool) -> Result<()> {
        let _one = self.starting.lock().await;
        let open = match &*self.phase() {
            Phase::Open(open) => Some(open.client.clone()),
            Phase::Closed if !reopen => return Err(ClientError::Closed),
            Phase::New | Phase::Closed => None,
        };
        if let Some(client) = open {
            // It may have ended since.
            if !reopen || start::takes_calls(&client).await {
                return Ok(());
            }
            *self.phase() = Phase::New;
        }
        let found = if self.settings.auto_start && self.given.is_local() {
            start::find_or_start(&self.given, &self.settings.start).await?
        } else {
            self.given.health().await?;
            start::Found { client: self.given.clone(), lifeline: None, log: None }
        };
        if !self.settings.warmup.is_empty() {
            warm_up(&found.client, Some(self.settings.warmup.clone())).await?;
        }
        let start::Found { client, lifeline, log } = found;
        *self.phase() = Phase::Open(Box::new(Open { client, _lifeline: lifeline, log, heartbeat: None }));
        if !self.sessions().is_empty() {
            self.beat();
        }
        Ok(())
    }

    /// Makes a session.
    pub(crate) async fn create(
        self: &Arc<Self>,
        client: &HttpServiceClient,
        new: NewSession,
    ) -> Result<CreatedSession> {
        let created = client.create_session(&new.request(client.worker().clone())).await?;
        let created = data(created, client.url())?;
        self.beat();
        Ok(created)
    }

    /// Makes sessions, in the place of those that are there.
    pub(crate) async fn make_anew(self: &Arc<Self>, wanted: Vec<NewSession>) -> Result<Vec<CreatedSession>> {
        let client = self.client().await?;
        for new in &wanted {
            match self.destroy(&client, &new.name).await {
                Err(error) if !is_missing(&error) => return Err(error),
                _ => {}
            }
        }
        self.create_all(wanted).await
    }

    /// Makes sessions, all at once, or none.
    pub(crate) async fn create_all(self: &Arc<Self>, wanted: Vec<NewSession>) -> Result<Vec<CreatedSession>> {
        let client = self.client().await?;
        let tasks: Vec<_> = wanted
            .into_iter()
            .map(|new| {
                let (inner, client, name) = (self.clone(), client.clone(), new.name.clone());
                (name, tokio::spawn(async move { inner.create(&client, new).await }))
            })
            .collect();
        let mut created: Vec<(SessionName, CreatedSession)> = Vec::new();
        let mut failure = None;
        for (name, task) in tasks {
            match task.await {
                Ok(Ok(session)) => created.push((name, session)),
                Ok(Err(error)) => failure = failure.or(Some(error)),
                // Its runtime ends, and whoever waits here with it.
                Err(_) => failure = failure.or(Some(ClientError::Closed)),
            }
        }
        if let Some(error) = failure {
            for id in
                created.iter().filter(|(_, session)| !session.existed()).filter_map(|(_, s)| s.session_id.as_ref())
            {
                // What cannot be reached is left to its time to live.
                let _ = client.destroy_session_id(id).await;
            }
            return Err(error);
        }
        let mut known = self.sessions();
        for (name, session) in &created {
            if let Some(id) = &session.session_id {
                known.insert(name.clone(), id.clone());
            }
        }
        Ok(created.into_iter().map(|(_, session)| session).collect())
    }

    pub(crate) async fn destroy(&self, client: &HttpServiceClient, name: &SessionName) -> Result<DestroyedSession> {
        let known = self.sessions().remove(name);
        let request = DestroySession {
            worker_id: client.worker().clone(),
            resource_type: Some(name.resource.clone()),
            session: Some(name.session.clone()),
            session_id: known.clone(),
        };
        match data(client.destroy_session(&request).await?, client.url()) {
            // By an attempt whose answer was lost.
            Err(error) if known.is_some() && error.reason() == Some("destroyed") => Ok(DestroyedSession {
                message: "session destroyed".to_owned(),
                resource_type: name.resource.clone(),
                session_id: known,
                session_name: None,
                compatibility_mode: false,
            }),
            destroyed => destroyed,
        }
    }

    pub(crate) fn known(&self, name: &SessionName) -> Option<SessionId> {
        self.sessions().get(name).cloned()
    }

    /// A session that is gone is no longer meant by calls: its end was told. By its name the server tells it once more, since
    /// another client of the worker may mean it too.
    pub(crate) fn note_gone(&self, request: &ExecuteRequest, code: ErrorCode) {
        if code == ErrorCode::SESSION_GONE
            && let Some(id) = &request.session_id
        {
            self.sessions().retain(|_, known| known != id);
        }
    }

    /// A client of the same server whose connections are this crate's runtime's: those of a runtime that stands still, or has
    /// ended, are of no use.
    pub(crate) fn client_apart(&self, client: HttpServiceClient) -> HttpServiceClient {
        let known = self.apart.get().filter(|apart| apart.url() == client.url());
        // Without one of its own it has to do.
        known.cloned().or_else(|| client.apart().ok()).map_or(client, |apart| {
            self.apart.get_or_init(|| apart.clone());
            apart
        })
    }

    /// Begins the heartbeat, unless it beats.
    fn beat(self: &Arc<Self>) {
        let Some(every) = self.settings.heartbeat else { return };
        let mut phase = self.phase();
        let Phase::Open(open) = &mut *phase else { return };
        // Not on the caller's runtime: it may stand still while the caller works.
        if open.heartbeat.is_none()
            && let Some(handle) = background::handle()
        {
            let client = self.client_apart(open.client.clone());
            let beating = handle.spawn(beat(Arc::downgrade(self), client, every));
            open.heartbeat = Some(Beat(beating.abort_handle()));
        }
    }
}

async fn beat(sandbox: Weak<Inner>, client: HttpServiceClient, every: Duration) {
    loop {
        sleep(every).await;
        if sandbox.strong_count() == 0 {
            return;
        }
        // A server that does not answer is noticed by the next call.
        let _ = client.heartbeat().await;
    }
}

pub(crate) async fn warm_up(client: &HttpServiceClient, names: Option<Vec<String>>) -> Result<WarmupAnswer> {
    let warmup = client.warmup(names).await?;
    if warmup.errors.is_empty() { Ok(warmup) } else { Err(ClientError::NotReady(warmup.errors)) }
}
