//! A session that lives as long as somebody holds it.

use std::{sync::Arc, time::Duration};

use sandbox_types::{DestroySession, Envelope, ExecuteRequest, RefreshAnswer, RefreshSessions, SessionId};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    RunStream,
    client::{HttpServiceClient, data, is_missing, random, result, to_raw},
    error::Result,
    inner::Inner,
    sandbox::checked,
    spec::{NewSession, SessionName},
};

/// How long a session that is dropped may take to be destroyed where nobody waits for it.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// A session of its own, destroyed when it is closed or dropped.
///
/// Its calls name it by id: once it is gone they say so,
/// [`ClientError::SessionGone`](crate::ClientError::SessionGone), and never run on another one. A drop does not wait until it
/// is destroyed, and the end of the program does not either: what must be gone is [closed](Self::close). A server that was
/// started for this client stays for as long as the [`Sandbox`](crate::Sandbox) is open.
#[derive(Debug)]
pub struct Session {
    client: HttpServiceClient,
    sandbox: Arc<Inner>,
    name: SessionName,
    /// None until it was made, and on a resource whose tools need no session.
    id: Option<SessionId>,
    open: bool,
}

impl Session {
    /// Makes one that nobody else can have: under a name of its own.
    pub(crate) async fn create(sandbox: Arc<Inner>, mut new: NewSession) -> Result<Self> {
        let client = sandbox.client().await?;
        new.name.session = format!("{}-{:016x}", new.name.session, random());
        // Before it is asked for: who stops waiting may leave one behind.
        let name = new.name.clone();
        let mut session = Self { client, sandbox, name, id: None, open: true };
        let created = session.sandbox.create(&session.client, new).await?;
        session.id = created.session_id;
        session.open = session.id.is_some();
        Ok(session)
    }

    /// Its id; none on a resource whose tools need no session.
    pub fn id(&self) -> Option<&SessionId> {
        self.id.as_ref()
    }

    /// The resource.
    pub fn resource(&self) -> &str {
        &self.name.resource
    }

    /// Runs a tool on the session, `click` or `vm:click`; its result as the type that is asked for.
    ///
    /// # Errors
    /// The tool failed, the session is gone, there is no answer, or the result is not of this type.
    pub async fn call<T: DeserializeOwned>(&self, tool: &str, params: impl Serialize) -> Result<T> {
        result(self.client.execute_as(&self.request(tool, params)?).await?)
    }

    /// Runs a tool on the session; its whole answer.
    ///
    /// # Errors
    /// The tool failed, the session is gone, or there is no answer.
    pub async fn execute(&self, tool: &str, params: impl Serialize) -> Result<Envelope> {
        checked(self.client.execute_request(&self.request(tool, params)?).await?)
    }

    /// Runs a tool on the session, and reads what it says while it runs.
    ///
    /// # Errors
    /// No run began, or there is no answer.
    pub async fn stream(&self, tool: &str, params: impl Serialize) -> Result<RunStream> {
        self.client.stream(&self.request(tool, params)?).await
    }

    /// A request for a tool on the session, for its fields to be changed; [`Sandbox::execute_request`] sends it.
    ///
    /// [`Sandbox::execute_request`]: crate::Sandbox::execute_request
    ///
    /// # Errors
    /// [`ClientError::Invalid`](crate::ClientError::Invalid) when `params` cannot be written as JSON.
    pub fn request(&self, tool: &str, params: impl Serialize) -> Result<ExecuteRequest> {
        let action = if tool.contains([':', '.']) || tool.contains("__") {
            tool.to_owned()
        } else {
            format!("{}:{tool}", self.name.resource)
        };
        let mut request = ExecuteRequest::new(self.client.worker().clone(), action);
        request.params = Some(to_raw(&params)?);
        request.session_id.clone_from(&self.id);
        Ok(request)
    }

    /// Begins its time to live anew; until when it lives if nothing uses it (RFC 3339).
    ///
    /// # Errors
    /// The session is gone, or there is no answer.
    pub async fn refresh(&self) -> Result<Option<String>> {
        self.refreshing().await
    }

    pub(crate) fn refreshing(&self) -> impl Future<Output = Result<Option<String>>> + Send + use<> {
        let (client, id) = (self.client.clone(), self.id.clone());
        async move {
            let Some(id) = id else { return Ok(None) };
            let request = RefreshSessions {
                worker_id: client.worker().clone(),
                resource_type: None,
                session: None,
                session_id: Some(id),
            };
            match data(client.refresh_sessions(&request).await?, client.url())? {
                RefreshAnswer::One(session) => Ok(Some(session.expires_at)),
                RefreshAnswer::All(_) => Ok(None),
            }
        }
    }

    /// Destroys it.
    ///
    /// # Errors
    /// There is no answer: it may live until its time to live is over.
    pub async fn close(mut self) -> Result<()> {
        if self.open {
            destroy(&self.client, &self.name, self.id.as_ref()).await?;
        }
        // Not before: who stops waiting drops it.
        self.open = false;
        Ok(())
    }

    /// What a drop leaves to be done.
    pub(crate) fn leave(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        if !std::mem::take(&mut self.open) {
            return None;
        }
        let (sandbox, name, id) = (self.sandbox.clone(), self.name.clone(), self.id.clone());
        let client = self.client.clone();
        Some(async move {
            let client = sandbox.client_apart(client);
            // Its time to live takes care of what cannot be reached.
            let _ = tokio::time::timeout(DROP_LIMIT, destroy(&client, &name, id.as_ref())).await;
        })
    }
}

async fn destroy(client: &HttpServiceClient, name: &SessionName, id: Option<&SessionId>) -> Result<()> {
    let request = DestroySession {
        worker_id: client.worker().clone(),
        resource_type: Some(name.resource.clone()),
        session: Some(name.session.clone()),
        session_id: id.cloned(),
    };
    match checked(client.destroy_session(&request).await?) {
        Err(error) if !is_missing(&error) => Err(error),
        // It ended before.
        Ok(_) | Err(_) => Ok(()),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(leave) = self.leave() {
            crate::background::spawn(leave);
        }
    }
}
