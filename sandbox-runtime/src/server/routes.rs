//! Every route, plain and under `/api/v1`.

use std::{sync::Arc, time::SystemTime};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse, Resource, Route, guard,
    http::{Method, StatusCode, header},
    web::{self, Data, Path, Payload, PayloadConfig, Query, ServiceConfig},
};
use sandbox_types::{
    BatchRequest, CreateSession, DestroySession, ErrorCode, ExecuteRequest, Health, InitBatch, InitResource,
    RefreshSessions, ShutdownBegun, ShutdownRequest, WarmupRequest, WorkerRequest,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Service,
    access::Trusted,
    extract::{Body, is_true},
    render::{Failure, answer, bare, envelope, leave_unread, refusal},
    runs,
    shutdown::Stop,
    stream, transfer,
};
use crate::{answer::Answer, error::ToolError, run::Reader, time::rfc3339};

/// Largest body of a route that runs no tool.
const MAX_CONTROL_BYTES: usize = 1 << 20;

type Answered = Result<HttpResponse, Failure>;

/// Mounts every route twice: plain, and under `/api/v1` with the further names of that contract.
pub(super) fn configure(config: &mut ServiceConfig) {
    all(config);
    config.service(web::scope("/api/v1").configure(all).configure(v1).default_service(web::to(not_found)));
    config.default_service(web::to(not_found));
}

/// Mounts what the control port answers, under the names that it has on the main one.
pub(super) fn configure_control(config: &mut ServiceConfig) {
    control(config);
    let v1 = web::scope("/api/v1").configure(control).configure(v1_control);
    config.service(v1.default_service(web::to(not_on_control))).default_service(web::to(not_on_control));
}

/// What both ports answer, and the control port even while every worker is blocked: nothing here waits for a call, a hook or
/// a worker.
fn control(config: &mut ServiceConfig) {
    config
        .service(get("/runs", readable().to(runs::list)))
        .service(get("/runs/{id}", readable().to(runs::show)))
        .service(get("/runs/{id}/events", web::get().to(runs::events)))
        .service(post("/runs/{id}/cancel", web::post().to(runs::cancel)))
        .service(post("/session/destroy", web::post().to(session_destroy)))
        .service(post("/session/list", web::post().to(session_list)))
        .service(post("/status", web::post().to(status)))
        .service(post("/worker/disconnect", web::post().to(disconnect)))
        .service(post("/shutdown", web::post().to(shutdown)))
        .service(get("/warmup/status", readable().to(warmup_status)))
        .service(get("/resources", readable().to(resources)))
        .service(get("/health", readable().to(health)))
        .service(get("/ready", readable().to(ready)));
}

fn v1_control(config: &mut ServiceConfig) {
    config
        .service(post("/lifecycle/status", web::post().to(status)))
        .service(post("/server/shutdown", web::post().to(shutdown)));
}

fn all(config: &mut ServiceConfig) {
    // First: a path is compared with one route after the other.
    config
        .service(call("/execute", web::post().to(execute)))
        .service(call("/execute/batch", web::post().to(execute_batch)));
    control(config);
    config
        .service(transfer::resource())
        .service(post("/session/create", web::post().to(session_create)))
        .service(post("/session/refresh", web::post().to(session_refresh)))
        .service(post("/heartbeat", web::post().to(heartbeat)))
        .service(post("/warmup", web::post().to(warmup)))
        .service(get("/tools", readable().to(tools)))
        .service(get("/tools/{name}/schema", readable().to(tool_schema)));
}

fn v1(config: &mut ServiceConfig) {
    v1_control(config);
    config
        .service(post("/lifecycle/heartbeat", web::post().to(heartbeat)))
        .service(post("/init/resource", web::post().to(init_resource)))
        .service(post("/init/batch", web::post().to(init_batch)))
        .service(post("/init/from-config", web::post().to(init_from_config)));
}

/// A route whose body may be as large as `server.body_limit_mib` says: parameters of tools are.
fn call(path: &str, route: Route) -> Resource {
    web::resource(path)
        .route(route)
        .default_service(web::to(|request: HttpRequest, body| async move { wrong_method(&request, body, "POST") }))
}

fn post(path: &str, route: Route) -> Resource {
    call(path, route).app_data(PayloadConfig::new(MAX_CONTROL_BYTES))
}

fn get(path: &str, route: Route) -> Resource {
    web::resource(path)
        .route(route)
        .default_service(web::to(|request: HttpRequest, body| async move { wrong_method(&request, body, "GET, HEAD") }))
}

/// GET, or HEAD, whose body the HTTP library leaves out.
pub(super) fn readable() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

pub(super) fn wrong_method(request: &HttpRequest, body: Payload, allowed: &'static str) -> HttpResponse {
    leave_unread(body);
    // Of a page that may not call, nothing gets here.
    if request.method() == Method::OPTIONS && request.headers().contains_key(header::ORIGIN) {
        return HttpResponse::NoContent()
            .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, allowed))
            .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, transfer::ALLOWED_HEADERS))
            .insert_header((header::ACCESS_CONTROL_MAX_AGE, "600"))
            .finish();
    }
    let message = format!("{} is not a method of this route; use {allowed}", request.method());
    let mut response = refusal(&ToolError::new(ErrorCode::METHOD_NOT_ALLOWED, message));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

async fn not_found(request: HttpRequest, body: Payload) -> HttpResponse {
    leave_unread(body);
    let message = format!("there is no route {} {}", request.method(), request.path());
    refusal(&ToolError::new(ErrorCode::NOT_FOUND, message))
}

async fn not_on_control(request: HttpRequest, body: Payload) -> HttpResponse {
    leave_unread(body);
    let (method, path) = (request.method(), request.path());
    let message =
        format!("there is no route {method} {path} on the control port; tools and all that waits are on server.port");
    refusal(&ToolError::new(ErrorCode::NOT_FOUND, message))
}

async fn execute(service: Data<Service>, request: HttpRequest, body: Body<ExecuteRequest>) -> HttpResponse {
    // Most requests do not say what they would like.
    if request.headers().contains_key(header::ACCEPT) {
        if stream::is_wanted(&request) {
            return streamed(service.executor.stream(body.value, body.warnings));
        }
        if transfer::wants_bytes(&request) {
            return transfer::execute(&service, &request, body).await;
        }
    }
    let detached = body.value.detached;
    let answer = service.executor.execute_since(body.arrival, body.value, body.warnings).await;
    let mut response = envelope(&answer);
    if detached && answer.success {
        // Of a run that goes on; its own answer is another.
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

async fn execute_batch(service: Data<Service>, request: HttpRequest, body: Body<BatchRequest>) -> HttpResponse {
    if stream::is_wanted(&request) {
        return streamed(service.executor.stream_batch(body.value, body.warnings));
    }
    envelope(&*service.executor.execute_batch(body.value, body.warnings).await)
}

/// The events of a run that began, or why it did not.
fn streamed(begun: Result<Reader, Arc<Answer>>) -> HttpResponse {
    match begun {
        Ok(reader) => stream::respond(reader),
        Err(refusal) => envelope(&refusal),
    }
}

async fn session_create(service: Data<Service>, body: Body<CreateSession>) -> HttpResponse {
    answer(service.executor.create_session(body.value).await, body.arrival, body.warnings)
}

async fn session_destroy(service: Data<Service>, body: Body<DestroySession>) -> HttpResponse {
    answer(service.executor.destroy_session(&body.value), body.arrival, body.warnings)
}

async fn session_list(service: Data<Service>, body: Body<WorkerRequest>) -> HttpResponse {
    let sessions = service.executor.list_sessions(&body.value.worker_id, body.value.resource_type.as_deref());
    answer(Ok(sessions), body.arrival, body.warnings)
}

async fn session_refresh(service: Data<Service>, body: Body<RefreshSessions>) -> HttpResponse {
    answer(service.executor.refresh_sessions(&body.value), body.arrival, body.warnings)
}

async fn heartbeat(service: Data<Service>, body: Body<WorkerRequest>) -> HttpResponse {
    answer(Ok(service.executor.heartbeat(&body.value.worker_id)), body.arrival, body.warnings)
}

async fn status(service: Data<Service>, body: Body<WorkerRequest>) -> HttpResponse {
    answer(Ok(service.executor.worker_status(&body.value.worker_id)), body.arrival, body.warnings)
}

async fn disconnect(service: Data<Service>, body: Body<WorkerRequest>) -> HttpResponse {
    answer(Ok(service.executor.disconnect(&body.value.worker_id)), body.arrival, body.warnings)
}

async fn init_resource(service: Data<Service>, body: Body<InitResource>) -> HttpResponse {
    answer(service.executor.init_resource(body.value).await, body.arrival, body.warnings)
}

async fn init_batch(service: Data<Service>, body: Body<InitBatch>) -> HttpResponse {
    answer(service.executor.init_batch(body.value).await, body.arrival, body.warnings)
}

/// A client must not make the server read files: this route of the contract is refused, unread.
async fn init_from_config(body: Payload) -> HttpResponse {
    leave_unread(body);
    let message = "the server reads no configuration files for clients; send the configuration to init/batch";
    refusal(&ToolError::new(ErrorCode::PERMISSION_DENIED, message))
}

async fn warmup(service: Data<Service>, body: Body<WarmupRequest>) -> Answered {
    Ok(bare(StatusCode::OK, &service.executor.warmup(body.value.backends).await?))
}

async fn warmup_status(service: Data<Service>) -> HttpResponse {
    bare(StatusCode::OK, &service.executor.warmup_status())
}

async fn shutdown(service: Data<Service>, body: Body<ShutdownRequest>) -> Answered {
    if !service.allow_shutdown {
        let message = "shutdown over HTTP is off; server.allow_shutdown switches it on";
        return Err(ToolError::new(ErrorCode::PERMISSION_DENIED, message).into());
    }
    let sessions = service.executor.session_count();
    let cleanup_sessions = body.value.cleanup_sessions.unwrap_or(true);
    let _ = service.stop.send(Stop { force: body.value.force, cleanup_sessions });
    let begun = ShutdownBegun {
        status: "success".to_owned(),
        message: "the server is shutting down".to_owned(),
        sessions_cleaned: if cleanup_sessions { sessions } else { 0 },
    };
    Ok(bare(StatusCode::OK, &begun))
}

/// Query of `GET /tools`.
#[derive(Debug, Deserialize)]
struct ToolsQuery {
    resource_type: Option<String>,
    group: Option<String>,
    /// Full or simple names, separated by commas.
    names: Option<String>,
    include_hidden: Option<String>,
}

async fn tools(service: Data<Service>, query: Query<ToolsQuery>) -> HttpResponse {
    let registry = service.executor.registry();
    let hidden_too = is_true(query.include_hidden.as_deref());
    let names: Option<Vec<&str>> =
        query.names.as_deref().filter(|names| !names.is_empty()).map(|names| names.split(',').map(str::trim).collect());
    let given = |filter: &Option<String>| filter.clone().filter(|text| !text.is_empty());
    let (resource, group) = (given(&query.resource_type), given(&query.group));
    let tools: Vec<_> = registry
        .tools()
        .filter(|tool| tool.is_on())
        .map(|tool| &tool.info)
        .filter(|info| match &names {
            // Asked for by name, a hidden tool is shown.
            Some(names) => {
                names.iter().any(|name| *name == info.full_name || *name == info.name || *name == info.api_name)
            }
            None => hidden_too || !info.hidden,
        })
        .filter(|info| resource.as_ref().is_none_or(|wanted| info.resource_type.as_ref() == Some(wanted)))
        .filter(|info| group.as_ref().is_none_or(|wanted| info.group.as_ref() == Some(wanted)))
        .collect();
    bare(StatusCode::OK, &json!({ "count": tools.len(), "tools": tools, "facts": service.executor.facts() }))
}

async fn tool_schema(service: Data<Service>, name: Path<String>) -> HttpResponse {
    // A tool that is off cannot be called: it is not found either, and the error names what would switch it on.
    let found = service.executor.registry().resolve(&name).and_then(|tool| tool.resource().map(|_| tool.clone()));
    match found {
        Ok(tool) => bare(StatusCode::OK, &tool.info),
        Err(error) => {
            let error = ToolError::from_answer(ErrorCode::NOT_FOUND, error.message().to_owned(), {
                let mut body = error.body().clone();
                ErrorCode::NOT_FOUND.name().clone_into(&mut body.name);
                body
            });
            let answer = crate::answer::failure(&error, sandbox_types::Meta::default());
            let mut body = serde_json::to_value(answer).unwrap_or_default();
            // The word that clients of the `/api/v1` contract look for.
            body["status"] = Value::from("error");
            bare(StatusCode::NOT_FOUND, &body)
        }
    }
}

async fn resources(service: Data<Service>) -> HttpResponse {
    let resources = service.executor.resources();
    bare(StatusCode::OK, &json!({ "count": resources.len(), "resources": resources }))
}

async fn health(service: Data<Service>) -> HttpResponse {
    let features = ["idempotency", "acknowledge", "session_mode", "named_sessions", "runs", "streams", "detached"];
    let health = Health {
        status: "healthy".to_owned(),
        timestamp: rfc3339(SystemTime::now()),
        title: service.title.clone(),
        version: service.version.to_owned(),
        incarnation: Some(service.executor.incarnation()),
        features: features.map(str::to_owned).to_vec(),
    };
    bare(StatusCode::OK, &health)
}

async fn ready(service: Data<Service>, request: HttpRequest) -> HttpResponse {
    let (ready, body) = service.executor.readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if request.extensions().get::<Trusted>().is_none() {
        return bare(status, &json!({ "status": body.status }));
    }
    bare(status, &body)
}
