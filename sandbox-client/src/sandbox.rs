//! The facade: a server, a worker and its sessions in one hand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sandbox_types::{
    BatchAction, BatchRequest, BatchResult, DestroyedSession, Envelope, ErrorCode, ExecuteRequest, RefreshAnswer,
    RefreshSessions, Refreshed, SessionInfo, SessionList, ShutdownBegun, ShutdownRequest, ToolInfo, WarmupAnswer,
    WarmupStatus, WorkerId, WorkerStatus,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use crate::{
    Download, RunStream, Upload,
    builder::SandboxBuilder,
    client::{HttpServiceClient, data, is_missing, result, to_raw},
    error::{ClientError, Result},
    inner::{Inner, warm_up},
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

impl Sandbox {
    /// What a sandbox is made of.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    pub(crate) fn new(given: HttpServiceClient, settings: SandboxBuilder) -> Self {
        Self { inner: Arc::new(Inner::new(given, settings)) }
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
        self.inner.worker()
    }

    /// The address of the server; none before it was found, and after the end.
    pub fn url(&self) -> Option<String> {
        self.inner.server().map(|(url, _)| url)
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

    /// Runs a tool whose parameter `parameter` is an upload; its whole answer.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn upload(
        &self,
        action: &str,
        params: impl Serialize,
        parameter: &str,
        upload: Upload,
    ) -> Result<Envelope> {
        let request = self.request(action, params)?;
        let answer = self.client().await?.upload(&request, parameter, upload).await?;
        self.inner.note_gone(&request, answer.code);
        checked(answer)
    }

    /// Runs a tool whose result is bytes, to be read as they come.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn download(&self, action: &str, params: impl Serialize) -> Result<Download> {
        let request = self.request(action, params)?;
        let begun = self.client().await?.download(&request).await;
        if let Err(error) = &begun {
            self.inner.note_gone(&request, error.code().unwrap_or(ErrorCode::SUCCESS));
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
                self.inner.forget_sessions();
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
        self.inner.close().await;
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
        self.inner.forget_sessions();
        Ok(begun)
    }

    /// The end of what a server has logged that a client of this machine has started, at most 64 KiB.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the server was not started so, or its log cannot be read.
    pub async fn server_log(&self) -> Result<String> {
        self.client().await?;
        let log = self.inner.server().and_then(|(_, log)| log);
        let log = log.ok_or_else(|| ClientError::Invalid("no client has started this server".to_owned()))?;
        start::log_end(&log).map_err(|error| ClientError::Invalid(format!("the log cannot be read: {error}")))
    }
}

/// An answer that is no failure.
///
/// # Errors
/// It is one.
pub(crate) fn checked(answer: Envelope) -> Result<Envelope> {
    if answer.success { Ok(answer) } else { Err(ClientError::of(answer)) }
}
