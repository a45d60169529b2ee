//! `/execute/{tool}`: a call whose upload is the request's body, and whose stream is the answer's.

use std::sync::{Arc, LazyLock};

use actix_web::{
    FromRequest as _, HttpMessage as _, HttpRequest, HttpResponse, Resource, ResponseError as _,
    http::{
        ConnectionType,
        header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, ORIGIN, TRANSFER_ENCODING},
    },
    web::{self, Bytes, Data, Path, Payload, Query},
};
use sandbox_types::{ErrorCode, ExecuteRequest, SessionId, SessionMode, TraceId, WorkerId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::{
    Service,
    download::respond,
    extract::{
        ARRIVAL_LIMIT, Body, WORKER, WireBody, header_text, is_json, named_worker, parse, too_slow, unreadable,
        worker_id,
    },
    multipart::{Parts, malformed, name},
    render::{Failure, envelope},
    routes::{readable, wrong_method},
    upload::{Progress, Promise, pumped},
};
use crate::{
    bytes::ByteStream,
    error::{Result, ToolError},
    nearest::shown,
    registry::ToolEntry,
    schema::BodySchema,
    transfer::Transfer,
};

/// The headers that a page may send.
pub(super) const ALLOWED_HEADERS: &str = "authorization, content-digest, content-disposition, content-type, \
                                          if-modified-since, if-none-match, if-range, last-event-id, range, x-session, \
                                          x-session-id, x-session-mode, x-timeout-seconds, x-trace-id, x-worker-id";

/// What the heads of a multipart body, and what is around its parts, may take beside them.
const HEADS_BYTES: u64 = 1024 * 1024;

/// How the request's own part of a `multipart/form-data` body is named.
const REQUEST_PART: &str = "request";

pub(super) fn resource() -> Resource {
    web::resource("/execute/{tool}")
        .route(web::post().to(call))
        .route(readable().to(read))
        .default_service(web::to(|request, body| async move { wrong_method(&request, body, "GET, HEAD, POST") }))
}

/// Whether the client would rather have bytes than JSON.
pub(super) fn wants_bytes(request: &HttpRequest) -> bool {
    let first = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()?.split([',', ';']).next());
    first.is_some_and(|first| first.trim().eq_ignore_ascii_case("application/octet-stream"))
}

/// `POST /execute` of a client that wants bytes.
pub(super) async fn execute(service: &Service, request: &HttpRequest, body: Body<ExecuteRequest>) -> HttpResponse {
    let Body { value, warnings, arrival } = body;
    if value.idempotency_key.is_some() || value.detached {
        let field = if value.detached { "detached" } else { "idempotency_key" };
        return Failure::from(not_kept(field)).error_response();
    }
    let call = Call { arrival, request: value, upload: None, body: None, warnings };
    call.run(service, request).await
}

/// What a client says of a call beside the tool's parameters: in headers, or in the first part of a multipart body.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct Fields {
    /// Who calls.
    worker_id: Option<WorkerId>,
    /// The tool's parameters.
    params: Option<Map<String, Value>>,
    /// Time limit in seconds.
    #[schemars(extend("exclusiveMinimum" = 0))]
    timeout: Option<f64>,
    /// Name of the worker's session.
    session: Option<String>,
    /// Id of the session to use.
    session_id: Option<SessionId>,
    /// How a session is chosen.
    session_mode: Option<SessionMode>,
    /// Trace to run under.
    trace_id: Option<TraceId>,
}

impl WireBody for Fields {
    fn schema() -> &'static BodySchema {
        static SCHEMA: LazyLock<BodySchema> = LazyLock::new(BodySchema::of::<Fields>);
        &SCHEMA
    }
}

impl Fields {
    fn of_headers(request: &HttpRequest) -> Result<Self> {
        let given = |name| request.headers().get(name);
        if given("idempotency-key").is_some() {
            return Err(not_kept("Idempotency-Key"));
        }
        let text = |name| Ok::<_, ToolError>(header_text(request.headers(), name)?.map(str::to_owned));
        let timeout = text("x-timeout-seconds")?.map(|seconds| {
            seconds.trim().parse().map_err(|_| bad("x-timeout-seconds", "a number of seconds", &format!("`{seconds}`")))
        });
        let mode = text("x-session-mode")?.map(|mode| {
            let expected = "`auto`, `require` or `temporary`";
            serde_json::from_value(mode.as_str().into())
                .map_err(|_| bad("x-session-mode", expected, &format!("`{mode}`")))
        });
        Ok(Self {
            worker_id: named_worker(request.headers())?,
            params: None,
            timeout: timeout.transpose()?,
            session: text("x-session")?,
            session_id: id("x-session-id", text("x-session-id")?, SessionId::parse)?,
            session_mode: mode.transpose()?,
            trace_id: id("x-trace-id", text("x-trace-id")?, TraceId::parse)?,
        })
    }

    /// Where both say something, the body's own word holds.
    fn or(self, headers: Self) -> Self {
        Self {
            worker_id: self.worker_id.or(headers.worker_id),
            params: self.params,
            timeout: self.timeout.or(headers.timeout),
            session: self.session.or(headers.session),
            session_id: self.session_id.or(headers.session_id),
            session_mode: self.session_mode.or(headers.session_mode),
            trace_id: self.trace_id.or(headers.trace_id),
        }
    }
}

fn id<T>(name: &str, text: Option<String>, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>> {
    text.map(|text| parse(&text).map_err(|error| bad(name, "an id", &error))).transpose()
}

fn bad(header: &str, expected: &str, found: &str) -> ToolError {
    let message = format!("header `{header}`: expected {expected}, found {found}");
    ToolError::parameter(ErrorCode::INVALID_INPUT, header, expected, found).with_message(message)
}

fn not_kept(field: &str) -> ToolError {
    let expected = "none: a streamed upload or download is not kept to be answered again";
    ToolError::parameter(ErrorCode::INVALID_INPUT, field, expected, "one")
}

/// One call, ready to run.
struct Call {
    arrival: Instant,
    request: ExecuteRequest,
    upload: Option<(String, ByteStream)>,
    /// Of a body that is pumped.
    body: Option<Progress>,
    warnings: Vec<String>,
}

impl Call {
    fn new(
        arrival: Instant,
        action: &str,
        mut fields: Fields,
        tool: Option<&ToolEntry>,
        query: Vec<(String, String)>,
    ) -> Result<Self> {
        let mut params = fields.params.take().unwrap_or_default();
        for (name, text) in query {
            let known = tool.map(|tool| &tool.info.input_schema["properties"][&name]);
            if name == "worker_id" && known.is_none_or(Value::is_null) {
                let worker = Some(worker_id(&text)?);
                if fields.worker_id.is_some() && fields.worker_id != worker {
                    let expected = "the one of the header or the body";
                    return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, name, expected, "another"));
                }
                fields.worker_id = worker;
                continue;
            }
            let value = tool.map_or_else(|| Value::from(&*text), |tool| tool.info.value_of(&name, &text));
            if params.insert(name.clone(), value).is_some() {
                return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, name, "it once", "it twice"));
            }
        }
        let worker = fields.worker_id.ok_or_else(|| {
            let expected = "the header, or `worker_id` in the query or in the part `request`";
            ToolError::parameter(ErrorCode::MISSING_REQUIRED_FIELD, WORKER, expected, "none of them")
        })?;
        let mut request = ExecuteRequest::new(worker, action);
        request.params = Some(
            serde_json::value::to_raw_value(&params)
                .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string()))?,
        );
        request.timeout = fields.timeout;
        request.session = fields.session;
        request.session_id = fields.session_id;
        request.session_mode = fields.session_mode.unwrap_or_default();
        request.trace_id = fields.trace_id;
        Ok(Self { arrival, request, upload: None, body: None, warnings: Vec::new() })
    }

    async fn run(self, service: &Service, request: &HttpRequest) -> HttpResponse {
        let Self { arrival, request: mut call, upload, body, warnings } = self;
        let transfer = match upload {
            None => Transfer::new(),
            Some((parameter, stream)) => {
                let (transfer, mark) = Transfer::with_upload(stream);
                match with_member(call.params.as_deref().map_or("{}", |params| params.get()), &parameter, &mark) {
                    Ok(params) => call.params = Some(params),
                    Err(error) => return Failure::closing(error).error_response(),
                }
                transfer
            }
        };
        let transfer = Arc::new(transfer);
        let answering = service.executor.transfer(arrival, call, &transfer, warnings);
        let answer = match &body {
            None => answering.await,
            Some(body) => tokio::select! {
                biased;
                answer = answering => answer,
                () = body.client_left() => {
                    return Failure::closing(ToolError::client_left()).error_response();
                }
            },
        };
        let is_left = body.as_ref().is_some_and(|body| !body.is_whole());
        let mut response = match transfer.take_download().filter(|_| answer.success) {
            Some(download) => respond(request, download, &answer, body),
            None => envelope(&answer),
        };
        if is_left {
            // What is left of the body would be waited for as long as the client likes.
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        response
    }
}

/// The parameters and the mark that stands for the upload.
fn with_member(params: &str, name: &str, mark: &str) -> Result<Box<serde_json::value::RawValue>> {
    let broken = |error: serde_json::Error| ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string());
    let mut params: Map<String, Value> = serde_json::from_str(params).map_err(broken)?;
    if params.insert(name.to_owned(), mark.into()).is_some() {
        return Err(ToolError::parameter(
            ErrorCode::INVALID_INPUT,
            name,
            "it once: the body of the request is it",
            "it twice",
        ));
    }
    serde_json::value::to_raw_value(&params).map_err(broken)
}

type Answered = Result<HttpResponse, Failure>;

/// A page of elsewhere that shows the address as an image, say, must not run a tool; such a request names no `Origin`.
fn refuse_embedding(request: &HttpRequest) -> Result<()> {
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    if request.headers().contains_key(ORIGIN) || !matches!(site, Some(b"cross-site" | b"same-site")) {
        return Ok(());
    }
    let message = "a web page of another origin may not embed this";
    Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).with_reason("origin"))
}

/// `GET` and `HEAD`: for tools that change nothing.
async fn read(request: HttpRequest, service: Data<Service>, name: Path<String>) -> Answered {
    let arrival = Instant::now();
    refuse_embedding(&request)?;
    let query = query(&request)?;
    let tool = service.executor.registry().resolve(&name).ok();
    if let Some(tool) = tool.as_ref().filter(|tool| !tool.info.read_only) {
        let message = format!("tool `{}` is not marked `read_only`: call it by POST", tool.info.full_name);
        let mut response = Failure::from(ToolError::new(ErrorCode::METHOD_NOT_ALLOWED, message)).error_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let call = Call::new(arrival, &name, Fields::of_headers(&request)?, tool.as_deref(), query)?;
    Ok(call.run(&service, &request).await)
}

/// `POST`: with an upload, with parameters, or with neither.
async fn call(request: HttpRequest, service: Data<Service>, name: Path<String>, payload: Payload) -> Answered {
    let arrival = Instant::now();
    let tool = service.executor.registry().resolve(&name).ok();
    let parameter = tool.as_ref().and_then(|tool| tool.upload.as_deref());
    let has_body = request.headers().contains_key(TRANSFER_ENCODING)
        || request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0")
        // An empty file is a file.
        || request.headers().contains_key(CONTENT_TYPE);
    let prepared = Fields::of_headers(&request).and_then(|fields| Ok((fields, query(&request)?)));
    let (headers, query) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(Failure::unread(error, None, payload)),
    };
    if request.content_type().eq_ignore_ascii_case("multipart/form-data") {
        let given = Given { arrival, name: &name, tool: tool.as_deref(), headers, query };
        return of_parts(&request, &service, given, payload).await;
    }
    match parameter.filter(|_| has_body) {
        Some(parameter) => {
            let prepared = Call::new(arrival, &name, headers, tool.as_deref(), query)
                .and_then(|call| Ok((call, Promise::of(request.headers(), service.upload_limit_bytes)?)));
            let (mut call, promise) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return Err(Failure::unread(error, None, payload)),
            };
            call.warnings.extend(promise.remark());
            let (stream, progress) = pumped(&request, payload, promise);
            (call.upload, call.body) = (Some((parameter.to_owned(), stream)), Some(progress));
            Ok(call.run(&service, &request).await)
        }
        None if has_body && tool.is_some() => {
            let (bytes, json) = (whole_body(&request, payload, arrival).await?, is_json(&request));
            if !json && !bytes.is_empty() {
                let message =
                    format!("tool `{name}` takes no upload: expected no body, or application/json with its parameters");
                return Err(ToolError::new(ErrorCode::UNSUPPORTED_MEDIA_TYPE, message).into());
            }
            let body = if bytes.is_empty() { "{}".as_bytes() } else { &bytes[..] };
            let params = serde_json::from_slice(body).map_err(|error| {
                let message = format!("the body is no JSON object: {error}");
                ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message)
            })?;
            let fields = Fields { params: Some(params), ..headers };
            Ok(Call::new(arrival, &name, fields, tool.as_deref(), query)?.run(&service, &request).await)
        }
        None => {
            let call = Call::new(arrival, &name, headers, tool.as_deref(), query);
            let mut response = match call {
                Ok(call) => call.run(&service, &request).await,
                Err(error) => Failure::from(error).error_response(),
            };
            if has_body {
                super::render::leave_unread(payload);
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            Ok(response)
        }
    }
}

/// What the head of a request says.
struct Given<'a> {
    arrival: Instant,
    name: &'a str,
    tool: Option<&'a ToolEntry>,
    headers: Fields,
    query: Vec<(String, String)>,
}

/// A `multipart/form-data` body: the request first, unless headers and query say everything, then the upload.
async fn of_parts(request: &HttpRequest, service: &Service, given: Given<'_>, payload: Payload) -> Answered {
    let Given { arrival, name: action, tool, headers, query } = given;
    let mime = request.mime_type().ok().flatten();
    let Some(boundary) = mime.as_ref().and_then(|mime| mime.get_param("boundary")) else {
        return Err(Failure::unread(malformed("its Content-Type names no boundary"), None, payload));
    };
    let limit = service.body_limit_bytes;
    // Beside the upload there are the request and some heads.
    let all = service.upload_limit_bytes.saturating_add(limit as u64).saturating_add(HEADS_BYTES);
    let (body, progress) = pumped(request, payload, Promise::up_to(all));
    let mut parts = Parts::new(body, boundary.as_str());
    let parameter = tool.and_then(|tool| tool.upload.as_deref());
    let read = async {
        let first = parts.next().await?.ok_or_else(|| malformed("it has no parts"))?;
        let found = name(&first);
        match found.as_deref() {
            Some(REQUEST_PART) => {
                let request = parts.content(limit).await?;
                Ok((Some(request), parts.next().await?))
            }
            // Headers and query may say everything.
            found if found.is_some() && found == parameter => Ok((None, Some(first))),
            _ if tool.is_none() => Ok((None, Some(first))),
            found => {
                let expected = format!("`{REQUEST_PART}` (application/json) as the first part");
                Err(unexpected_part(&expected, found))
            }
        }
    };
    let read = timeout_at(arrival + ARRIVAL_LIMIT, read).await;
    let refuse = |error| if progress.is_whole() { Failure::from(error) } else { Failure::closing(error) };
    let (first, head) = read.unwrap_or_else(|_| Err(too_slow())).map_err(refuse)?;
    let fields = first.map_or_else(|| Ok(Default::default()), |first| parse::<Fields>(&first));
    let prepared = fields.and_then(|(fields, warnings)| {
        Ok(Call { warnings, ..Call::new(arrival, action, fields.or(headers), tool, query)? })
    });
    let mut call = prepared.map_err(refuse)?;
    // Of a tool that is not there the call says so.
    let Some(head) = head.filter(|_| tool.is_some()) else {
        drop(parts);
        call.body = Some(progress);
        return Ok(call.run(service, request).await);
    };
    let found = name(&head);
    let Some(parameter) = parameter.filter(|parameter| found.as_deref() == Some(parameter)) else {
        let none = || "no second part: the tool takes no upload".to_owned();
        let expected = parameter.map_or_else(none, |parameter| format!("`{parameter}` as the second part"));
        return Err(refuse(unexpected_part(&expected, found.as_deref())));
    };
    let promise = Promise::of(&head, service.upload_limit_bytes).map_err(refuse)?;
    call.body = Some(progress);
    call.warnings.extend(promise.remark());
    call.upload = Some((parameter.to_owned(), promise.stream(parts.last(service.upload_limit_bytes))));
    Ok(call.run(service, request).await)
}

fn unexpected_part(expected: &str, found: Option<&str>) -> ToolError {
    let found = found.map_or_else(|| "one without a name".to_owned(), |name| format!("`{}`", shown(name)));
    ToolError::parameter(ErrorCode::INVALID_REQUEST_FORMAT, "multipart/form-data", expected, found)
}

/// A body that is held in memory: parameters.
async fn whole_body(request: &HttpRequest, payload: Payload, arrival: Instant) -> Result<Bytes, Failure> {
    let mut payload = payload.into_inner();
    let mut bytes = Bytes::from_request(request, &mut payload);
    match timeout_at(arrival + ARRIVAL_LIMIT, &mut bytes).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(Failure::unread(unreadable(&error), None, bytes)),
        Err(_) => Err(Failure::unread(too_slow(), None, bytes)),
    }
}

fn query(request: &HttpRequest) -> Result<Vec<(String, String)>> {
    let query = Query::<Vec<(String, String)>>::from_query(request.query_string());
    query
        .map(Query::into_inner)
        .map_err(|error| ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, format!("the query: {error}")))
}
