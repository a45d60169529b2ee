//! The facade: a server, a worker and its sessions in one hand.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use sandbox_types::{
    BatchAction, BatchRequest, BatchResult, CreatedSession, DestroySession, DestroyedSession, Envelope, ErrorCode,
    ExecuteRequest, RefreshAnswer, RefreshSessions, Refreshed, SessionId, SessionInfo, SessionList, ShutdownBegun,
    ShutdownRequest, ToolInfo, WarmupAnswer, WarmupStatus, WorkerId, WorkerStatus,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};

use crate::{
    RunStream, background,
    builder::SandboxBuilder,
    client::{HttpServiceClient, data, is_missing, result, to_raw},
    error::{ClientError, Result},
    session::Session,
    spec::{NewSession, SessionName, Sessions, Which},
    start,
};

/// How long a server may take to end.
const END_LIMIT: Duration = Duration::from_mins(2);

/// A server, found or started, and one worker's sessions and calls on it.
///
/// Clones are the same sandbox. Every method starts it first if need be; once it is closed, only [`start`](Self::start) does.
/// The sessions that it makes are remembered by id: a call that means one says [`ClientError::SessionGone`] once it is gone,
/// also after a restart of the server, and never runs on another one instead. (That holds for calls of tools by their full
/// names, such as `vm:click`; actions of a batch, and other names, find their session by its name.) A server that was started
/// for this client lives as long as the sandbox is open.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

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

impl Sandbox {
    /// What a sandbox is made of.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    pub(crate) fn new(given: HttpServiceClient, settings: SandboxBuilder) -> Self {
        let inner = Inner {
            given,
            settings,
            starting: tokio::sync::Mutex::default(),
            phase: Mutex::new(Phase::New),
            sessions: Mutex::default(),
            apart: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Finds the server or starts one, and gets the resources ready that the builder names. A server that has ended since is
    /// replaced by another one, whose sessions it does not have.
    ///
    /// # Errors
    /// There is none and none could be started ([`ClientError::ServerStart`] has its log), or a resource did not get ready.
    pub async fn start(&self) -> Result<()> {
        self.inner.start(true).await
    }

    /// Who this sandbox is to the server.
    pub fn worker_id(&self) -> &WorkerId {
        self.inner.given.worker()
    }

    /// The address of the server; none before it was found, and after the end.
    pub fn url(&self) -> Option<String> {
        match &*self.inner.phase() {
            Phase::Open(open) => Some(open.client.url().to_owned()),
            Phase::New | Phase::Closed => None,
        }
    }

    /// A client with one method for each route of the server.
    ///
    /// # Errors
    /// The sandbox could not be started, or is closed.
    pub async fn client(&self) -> Result<HttpServiceClient> {
        self.inner.client().await
    }

    /// Gets resources ready; all of them if none is named.
    ///
    /// # Errors
    /// [`ClientError::NotReady`] names those that did not get ready, and why; or there is no answer.
    pub async fn warmup<T: AsRef<str>>(&self, resources: &[T]) -> Result<WarmupAnswer> {
        let client = self.client().await?;
        let names = resources.iter().map(|name| name.as_ref().to_owned()).collect::<Vec<_>>();
        warm_up(&client, (!names.is_empty()).then_some(names)).await
    }

    /// How far each resource is.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get_warmup_status(&self) -> Result<WarmupStatus> {
        self.client().await?.warmup_status().await
    }

    /// Makes one session, several, or those of a map from resources to configurations; what is there already is found.
    ///
    /// ```no_run
    /// # async fn demo(sandbox: sandbox_client::Sandbox) -> Result<(), sandbox_client::ClientError> {
    /// use std::collections::BTreeMap;
    /// use serde_json::json;
    ///
    /// let one = sandbox.create_session("bash").await?;
    /// let [vm, rag] = &sandbox.create_session(["vm", "rag/second"]).await?[..] else { unreachable!() };
    /// let map = sandbox.create_session(BTreeMap::from([("bash", json!({ "env": { "A": "1" } }))])).await?;
    /// println!("{:?} {:?}", one.session_id, map["bash"].expires_at);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first failure, after those that were made by this call have been destroyed again; or there is no answer.
    pub async fn create_session<S: Sessions>(&self, sessions: S) -> Result<S::Created> {
        let wanted = sessions.wanted()?;
        let names = wanted.iter().map(|new| new.name.label()).collect();
        Ok(S::created(names, self.inner.create_all(wanted).await?))
    }

    /// Destroys sessions, and makes them anew.
    ///
    /// # Errors
    /// As [`create_session`](Self::create_session).
    pub async fn reinitialize<S: Sessions>(&self, sessions: S) -> Result<S::Created> {
        let wanted = sessions.wanted()?;
        let names = wanted.iter().map(|new| new.name.label()).collect();
        Ok(S::created(names, self.inner.make_anew(wanted).await?))
    }

    /// A session of its own, which nobody else uses, destroyed when it is closed or dropped.
    ///
    /// ```no_run
    /// # async fn demo(sandbox: sandbox_client::Sandbox) -> Result<(), sandbox_client::ClientError> {
    /// use serde_json::{Value, json};
    ///
    /// let shell = sandbox.session("bash").await?;
    /// shell.call::<Value>("run", json!({ "command": "cd /tmp" })).await?;
    /// let here: Value = shell.call("run", json!({ "command": "pwd" })).await?;
    /// assert_eq!(here["stdout"], "/tmp\n");
    /// shell.close().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// It could not be made, or there is no answer.
    pub async fn session(&self, new: impl Into<NewSession>) -> Result<Session> {
        Session::create(self.inner.clone(), new.into()).await
    }

    /// Runs a tool; its whole answer. Without a session of the worker's it runs on one of its own, which ends with it.
    ///
    /// # Errors
    /// [`ClientError::Failed`] when the tool failed, [`ClientError::SessionGone`] when its session is gone; or there is no
    /// answer.
    pub async fn execute(&self, action: &str, params: impl Serialize) -> Result<Envelope> {
        self.execute_request(&self.request(action, params)?).await
    }

    /// Runs a tool; its result as the type that is asked for.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), or the result is not of this type.
    pub async fn call<T: DeserializeOwned>(&self, action: &str, params: impl Serialize) -> Result<T> {
        result(self.call_raw(&self.request(action, params)?).await?)
    }

    pub(crate) async fn call_raw(&self, request: &ExecuteRequest) -> Result<Envelope<Box<RawValue>>> {
        let answer = self.client().await?.execute_as(request).await?;
        self.inner.note_gone(request, answer.code);
        Ok(answer)
    }

    /// A request for a tool, for its fields to be changed.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when `params` cannot be written as JSON.
    pub fn request(&self, action: &str, params: impl Serialize) -> Result<ExecuteRequest> {
        let mut request = ExecuteRequest::new(self.worker_id().clone(), action);
        request.params = Some(to_raw(&params)?);
        request.session_id = SessionName::of_call(action, None).and_then(|name| self.inner.known(&name));
        Ok(request)
    }

    /// Runs a tool, with every field of the request in the caller's hand.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_request(&self, request: &ExecuteRequest) -> Result<Envelope> {
        let answer = self.client().await?.execute_request(request).await?;
        self.inner.note_gone(request, answer.code);
        checked(answer)
    }

    /// Runs several tools, one after the other until one fails, or all at once; how each ended.
    ///
    /// # Errors
    /// The batch was refused, or there is no answer; that a tool failed is told in the result.
    pub async fn execute_batch<A, P>(
        &self,
        actions: impl IntoIterator<Item = (A, P)>,
        parallel: bool,
    ) -> Result<BatchResult>
    where
        A: Into<String>,
        P: Serialize,
    {
        self.execute_batch_request(&self.batch(actions, parallel)?).await
    }

    /// A request for several tools, for its fields to be changed.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the parameters of one cannot be written as JSON.
    pub fn batch<A, P>(&self, actions: impl IntoIterator<Item = (A, P)>, parallel: bool) -> Result<BatchRequest>
    where
        A: Into<String>,
        P: Serialize,
    {
        let action = |(action, params): (A, P)| {
            let params = Some(to_raw(&params)?);
            Ok(BatchAction { action: action.into(), params, timeout: None, session: None })
        };
        let actions = actions.into_iter().map(action).collect::<Result<_>>()?;
        let mut request = BatchRequest::new(self.worker_id().clone(), actions);
        request.parallel = parallel;
        Ok(request)
    }

    /// Runs several tools, with every field of the request in the caller's hand.
    ///
    /// # Errors
    /// As [`execute_batch`](Self::execute_batch).
    pub async fn execute_batch_request(&self, request: &BatchRequest) -> Result<BatchResult> {
        let client = self.client().await?;
        let mut answer = client.execute_batch(request).await?;
        if matches!(answer.code, ErrorCode::PARTIAL_FAILURE | ErrorCode::ALL_REQUESTS_FAILED) && answer.data.is_some() {
            answer.success = true;
        }
        data(answer, client.url())
    }

    /// Runs a tool, and reads what it says while it runs; the last event is the answer.
    ///
    /// # Errors
    /// No run began, or there is no answer.
    pub async fn stream(&self, action: &str, params: impl Serialize) -> Result<RunStream> {
        self.stream_request(&self.request(action, params)?).await
    }

    /// As [`stream`](Self::stream), with every field of the request in the caller's hand.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_request(&self, request: &ExecuteRequest) -> Result<RunStream> {
        let begun = self.client().await?.stream(request).await;
        if let Err(error) = &begun {
            self.inner.note_gone(request, error.code().unwrap_or(ErrorCode::SUCCESS));
        }
        begun
    }

    /// Destroys sessions: `"vm"`, `"vm/second"`, several, or all of the worker's. Their cleanup goes on behind.
    ///
    /// # Errors
    /// There is no such session, it had ended already, or there is no answer.
    pub async fn destroy_session(&self, which: impl Into<Which>) -> Result<Vec<DestroyedSession>> {
        let client = self.client().await?;
        let mut destroyed = Vec::new();
        match which.into() {
            Which::These(names) => {
                for name in names {
                    destroyed.push(self.inner.destroy(&client, &SessionName::parse(&name)).await?);
                }
            }
            Which::All => {
                self.inner.sessions().clear();
                for session in self.list_sessions().await? {
                    match data(client.destroy_session_id(&session.session_id).await?, client.url()) {
                        Err(error) if !is_missing(&error) => return Err(error),
                        Err(_) => {}
                        Ok(session) => destroyed.push(session),
                    }
                }
            }
        }
        Ok(destroyed)
    }

    /// The worker's sessions.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn list_sessions(&self) -> Result<Vec<SessionInfo>> {
        let client = self.client().await?;
        let list: SessionList = data(client.list_sessions().await?, client.url())?;
        Ok(list.sessions)
    }

    /// Begins the time to live of sessions anew; until when each lives if nothing uses it, by its name.
    ///
    /// # Errors
    /// There is no such session, it has ended, or there is no answer.
    pub async fn refresh_sessions(&self, which: impl Into<Which>) -> Result<BTreeMap<String, Refreshed>> {
        let client = self.client().await?;
        let names = match which.into() {
            Which::These(names) => names.iter().map(|name| Some(SessionName::parse(name))).collect(),
            Which::All => vec![None],
        };
        let mut refreshed = BTreeMap::new();
        for name in names {
            let request = RefreshSessions {
                worker_id: self.worker_id().clone(),
                resource_type: name.as_ref().map(|name| name.resource.clone()),
                session: name.as_ref().map(|name| name.session.clone()),
                session_id: None,
            };
            match data(client.refresh_sessions(&request).await?, client.url())? {
                RefreshAnswer::All(all) => refreshed.extend(all.details),
                RefreshAnswer::One(one) => {
                    let label = name.map_or(one.resource_type, |name| name.label());
                    let status = "refreshed".to_owned();
                    refreshed.insert(label, Refreshed { status, expires_at: Some(one.expires_at) });
                }
            }
        }
        Ok(refreshed)
    }

    /// Every tool that is not hidden.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn tools(&self) -> Result<Vec<ToolInfo>> {
        self.client().await?.tools().await
    }

    /// What the worker has.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn status(&self) -> Result<WorkerStatus> {
        let client = self.client().await?;
        data(client.status().await?, client.url())
    }

    /// Ends connections and heartbeat, and leaves the sessions to their time to live. A server that was started for its clients
    /// ends soon after the last of them.
    pub async fn close(&self) {
        let _no_start = self.inner.starting.lock().await;
        let before = std::mem::replace(&mut *self.inner.phase(), Phase::Closed);
        drop(before);
    }

    /// Ends the server, after its calls, and waits until it has; the sandbox is closed then.
    ///
    /// # Errors
    /// The server does not permit it (`server.allow_shutdown`; one that was started for its clients does), or there is no
    /// answer.
    pub async fn shutdown_server(&self) -> Result<ShutdownBegun> {
        let client = self.client().await?;
        let begun = client.shutdown_server(&ShutdownRequest::default()).await?;
        let until = Instant::now() + END_LIMIT;
        while client.ready().await.is_ok() && Instant::now() < until {
            sleep(Duration::from_millis(50)).await;
        }
        self.close().await;
        self.inner.sessions().clear();
        Ok(begun)
    }

    /// The end of what a server has logged that a client of this machine has started, at most 64 KiB.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the server was not started so, or its log cannot be read.
    pub async fn server_log(&self) -> Result<String> {
        self.client().await?;
        let log = match &*self.inner.phase() {
            Phase::Open(open) => open.log.clone(),
            Phase::New | Phase::Closed => None,
        };
        let log = log.ok_or_else(|| ClientError::Invalid("no client has started this server".to_owned()))?;
        start::log_end(&log).map_err(|error| ClientError::Invalid(format!("the log cannot be read: {error}")))
    }
}

impl Inner {
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

    async fn start(self: &Arc<Self>, reopen: bool) -> Result<()> {
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

    async fn destroy(&self, client: &HttpServiceClient, name: &SessionName) -> Result<DestroyedSession> {
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

    fn known(&self, name: &SessionName) -> Option<SessionId> {
        self.sessions().get(name).cloned()
    }

    /// A session that is gone is no longer meant by calls: its end was told. By its name the server tells it once more, since
    /// another client of the worker may mean it too.
    fn note_gone(&self, request: &ExecuteRequest, code: ErrorCode) {
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

async fn warm_up(client: &HttpServiceClient, names: Option<Vec<String>>) -> Result<WarmupAnswer> {
    let warmup = client.warmup(names).await?;
    if warmup.errors.is_empty() { Ok(warmup) } else { Err(ClientError::NotReady(warmup.errors)) }
}

/// An answer that is no failure.
///
/// # Errors
/// It is one.
pub(crate) fn checked(answer: Envelope) -> Result<Envelope> {
    if answer.success { Ok(answer) } else { Err(ClientError::of(answer)) }
}
