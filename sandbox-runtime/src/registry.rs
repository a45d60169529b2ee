//! The registry: names of tools and resources, and every check at start.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use sandbox_types::{ErrorCode, ResourceLimits, ToolInfo};
use serde_json::{Map, Value};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    config::{Config, ResourceConfig},
    context::ResourceContext,
    erase::ToolView,
    error::{Result, ToolError},
    gate::Gate,
    linked::{Linked, LinkedBackend, own_part},
    nearest::{nearest, shown},
    resource::{CleanupFaults, Resource},
    schema::{ParamsSchema, generate},
    tool::SessionUse,
};

/// No tool has a longer name; for longer ones no candidates are looked for.
const LONGEST_NAME: usize = 256;

/// Everything that can be called.
pub struct Registry {
    tools: Vec<Arc<ToolEntry>>,
    /// Every spelling of every tool: one look-up per call.
    names: HashMap<Box<str>, Named, ahash::RandomState>,
    resources: Vec<Arc<Resource>>,
}

/// One tool of one resource, ready to be called.
pub struct ToolEntry {
    pub(crate) full_name: String,
    pub(crate) resource_type: Option<String>,
    pub(crate) index: usize,
    pub(crate) session: SessionUse,
    pub(crate) blocking: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) params: ParamsSchema,
    /// As `GET /tools` shows it.
    pub info: ToolInfo,
    on: Result<Arc<Resource>, &'static str>,
}

enum Named {
    Tool(usize),
    /// A simple name, or a bare alias, of several tools.
    Ambiguous(Vec<usize>),
}

/// Everything that is wrong with the configuration and the linked backends, together.
#[derive(Debug)]
pub struct RegistryErrors(pub Vec<String>);

impl fmt::Display for RegistryErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for RegistryErrors {}

/// What resources share.
pub(crate) struct Shared<'a> {
    pub(crate) runtime: Handle,
    pub(crate) data_dir: Option<&'a Path>,
    pub(crate) faults: Arc<CleanupFaults>,
    pub(crate) cleanups: TaskTracker,
}

impl ToolEntry {
    /// The resource it runs on.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST_FORMAT`] naming the section of the configuration that would switch it on.
    pub(crate) fn resource(&self) -> Result<&Arc<Resource>> {
        self.on.as_ref().map_err(|section| {
            let message = format!("tool `{}` is off: the configuration has no section `{section}`", self.full_name);
            ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message).with_reason("not_configured")
        })
    }

    /// Whether its section of the configuration is there.
    pub fn is_on(&self) -> bool {
        self.on.is_ok()
    }
}

impl Registry {
    /// Binds the linked backends to the configuration and checks everything that can be checked before the first call.
    ///
    /// # Errors
    /// Every fault of the configuration, the backends and their tools, together.
    pub(crate) fn build(config: &Config, linked: &Linked, shared: &Shared<'_>) -> Result<Self, RegistryErrors> {
        let mut build = Build { shared, errors: linked.errors().to_vec(), registry: Self::empty() };
        build.configured_resources(config, linked);
        build.sections_and_free_tools(config, linked);
        let names: Vec<_> = build.registry.resources.iter().map(|resource| resource.name.clone()).collect();
        for name in config.warmup.resources.iter().flatten() {
            if !names.iter().any(|known| **known == **name) {
                build.errors.push(format!("warmup.resources: `{name}` is no configured, enabled resource"));
            }
        }
        build.names();
        if build.errors.is_empty() { Ok(build.registry) } else { Err(RegistryErrors(build.errors)) }
    }

    fn empty() -> Self {
        Self { tools: Vec::new(), names: HashMap::default(), resources: Vec::new() }
    }

    /// The tool that a request's `action` means.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST_FORMAT`] for an unknown or ambiguous name, with candidates.
    pub fn resolve(&self, action: &str) -> Result<Arc<ToolEntry>> {
        match self.names.get(action) {
            Some(Named::Tool(index)) => Ok(self.tools[*index].clone()),
            Some(Named::Ambiguous(indices)) => {
                let names = indices.iter().map(|index| self.tools[*index].full_name.clone());
                let message = format!("tool `{action}` is ambiguous; use one of the full names");
                Err(ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message)
                    .with_reason("ambiguous_tool")
                    .with_candidates(names))
            }
            None => {
                let candidates = self.candidates(action);
                let mut message = format!("tool `{}` is not known", shown(action));
                if let Some(first) = candidates.first() {
                    message = format!("{message}; did you mean `{first}`?");
                }
                let error = ToolError::new(ErrorCode::INVALID_REQUEST_FORMAT, message).with_reason("unknown_tool");
                Err(error.with_candidates(candidates))
            }
        }
    }

    fn candidates(&self, action: &str) -> Vec<String> {
        if action.len() > LONGEST_NAME {
            return Vec::new();
        }
        let visible = || self.tools.iter().filter(|tool| !tool.info.hidden && tool.is_on());
        let mut scored: Vec<_> = visible()
            .map(|tool| {
                let full = strsim::jaro_winkler(action, &tool.full_name);
                let simple = strsim::jaro_winkler(action, &tool.info.name);
                (full.max(simple), &tool.full_name)
            })
            .filter(|(similarity, _)| *similarity > 0.75)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        scored.into_iter().take(5).map(|(_, name)| name.clone()).collect()
    }

    /// Every tool, those that are off included, by full name.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<ToolEntry>> {
        self.tools.iter()
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// A resource that a session, or a warmup, can be asked of.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] with candidates.
    pub(crate) fn resource(&self, name: &str) -> Result<&Arc<Resource>> {
        let visible = || self.resources.iter().filter(|resource| resource.about.free_tool_group.is_none());
        visible().find(|resource| *resource.name == *name).ok_or_else(|| {
            let near = nearest(name, visible().map(|resource| &*resource.name)).map(str::to_owned);
            ToolError::new(ErrorCode::NOT_FOUND, format!("resource `{name}` does not exist")).with_candidates(near)
        })
    }
}

/// The registry while it is being built.
struct Build<'a> {
    shared: &'a Shared<'a>,
    errors: Vec<String>,
    registry: Registry,
}

impl Build<'_> {
    /// `resources.*`.
    fn configured_resources(&mut self, config: &Config, linked: &Linked) {
        let candidates: Vec<&LinkedBackend> =
            linked.backends().iter().filter(|b| b.about().free_tool_group.is_none()).collect();
        for (name, resource) in config.resources.iter().filter(|(_, resource)| resource.enabled) {
            let wanted = resource.backend_name(name);
            match candidates.iter().find(|backend| backend.about().name == wanted) {
                Some(backend) => self.add_resource(name, backend, resource, resource.config.clone(), config),
                None => self.errors.push(not_linked(name, &wanted, &candidates)),
            }
        }
    }

    /// Lightweight backends, which are on when their section is there, and free tools.
    fn sections_and_free_tools(&mut self, config: &Config, linked: &Linked) {
        for backend in linked.backends() {
            let about = backend.about();
            let schema = backend.backend.config_schema();
            let section = backend.section().map(|key| config.apis.get(key));
            let configuration = match section {
                Some(Some(section)) => own_part(section, &schema),
                Some(None) if about.free_tool_group.is_some() => {
                    self.add_tools(
                        about.name,
                        backend,
                        &Err(about.config_section.unwrap_or_default()),
                        &ResourceConfig::default(),
                    );
                    continue;
                }
                None if about.free_tool_group.is_some() => Value::Object(Map::new()),
                Some(None) | None => continue,
            };
            if config.resources.get(about.name).is_some_and(|resource| resource.enabled)
                && about.free_tool_group.is_none()
            {
                self.errors.push(format!(
                    "resources.{}: a backend of this name is switched on by `{}` already",
                    about.name,
                    about.config_section.unwrap_or_default()
                ));
                continue;
            }
            self.add_resource(about.name, backend, &ResourceConfig::default(), configuration, config);
        }
    }

    fn add_resource(
        &mut self,
        name: &str,
        backend: &LinkedBackend,
        resource: &ResourceConfig,
        configuration: Value,
        config: &Config,
    ) {
        let about = backend.about();
        let place = about.config_section.map_or_else(|| format!("resources.{name}.config"), str::to_owned);
        if let Err((path, fault)) = backend.backend.check_config(&configuration) {
            let path = if path == "." { place } else { format!("{place}.{path}") };
            self.errors.push(format!("{path}: {fault}"));
            return;
        }
        let session_schema =
            match ParamsSchema::of_value(generate(|generator| backend.backend.session_config_schema(generator))) {
                Ok(schema) => schema,
                Err(errors) => {
                    self.errors
                        .extend(errors.into_iter().map(|error| format!("session config of `{}`: {error}", about.name)));
                    return;
                }
            };
        let data_dir = self.shared.data_dir.map(|folder| folder.join("resources").join(name));
        let context = Arc::new(ResourceContext::new(name.into(), data_dir, self.shared.runtime.clone()));
        let limits = limits(resource, config);
        let resource_entry = Arc::new(Resource {
            name: name.into(),
            about,
            description: resource.description.clone().unwrap_or_else(|| about.description.to_owned()),
            required: resource.required,
            config: configuration,
            session_schema,
            instance: backend.backend.bind(&backend.blocks, context.clone()),
            context,
            gate: Gate::new(limits.max_concurrent_calls, limits.max_queued_calls),
            limits,
            epoch: Instant::now(),
            sessions: AtomicUsize::new(0),
            faults: self.shared.faults.clone(),
            cleanups: self.shared.cleanups.clone(),
            start: crate::resource::Start::default(),
            initialize_pace: crate::pace::Pace::default(),
            cleanup_pace: crate::pace::Pace::default(),
        });
        self.registry.resources.push(resource_entry.clone());
        self.add_tools(name, backend, &Ok(resource_entry), resource);
    }

    fn add_tools(
        &mut self,
        resource_name: &str,
        backend: &LinkedBackend,
        on: &Result<Arc<Resource>, &'static str>,
        config: &ResourceConfig,
    ) {
        let about = backend.about();
        let views = backend.backend.tools(&backend.blocks);
        self.check_choice(resource_name, &views, config);
        for (index, view) in views.into_iter().enumerate() {
            if let Some(earlier) =
                backend.backend.tools(&backend.blocks)[..index].iter().find(|earlier| earlier.name == view.name)
            {
                self.errors.push(format!(
                    "tool `{}` of backend `{}` stands twice: {} and {}",
                    view.name, about.name, earlier.location, view.location
                ));
                continue;
            }
            if !chosen(&view, config) {
                continue;
            }
            let prefix = about.free_tool_group.unwrap_or(resource_name);
            let full_name = format!("{prefix}:{}", view.name);
            let resource_type = about.free_tool_group.is_none().then(|| resource_name.to_owned());
            let api_name = format!("{prefix}__{}", view.name);
            if api_name.len() > 64 {
                self.errors.push(format!(
                    "tool `{full_name}`: `{api_name}` is longer than the 64 characters that model APIs allow"
                ));
            }
            match ParamsSchema::new(view.input_schema, view.defaults) {
                Ok(params) => {
                    let info = info(&view, &full_name, api_name, resource_type.clone(), &params);
                    self.registry.tools.push(Arc::new(ToolEntry {
                        full_name,
                        resource_type,
                        index,
                        session: view.session,
                        blocking: view.blocking,
                        timeout: view.timeout,
                        params,
                        info,
                        on: on.clone(),
                    }));
                }
                Err(errors) => self
                    .errors
                    .extend(errors.into_iter().map(|error| format!("tool `{full_name}`, {}: {error}", view.location))),
            }
        }
    }

    /// `groups` and `tools` of a resource's configuration must name what there is.
    fn check_choice(&mut self, resource: &str, views: &[ToolView], config: &ResourceConfig) {
        for group in config.groups.iter().flatten() {
            if !views.iter().any(|view| view.group == Some(group)) {
                let mut known: Vec<_> = views.iter().filter_map(|view| view.group).collect();
                known.sort_unstable();
                known.dedup();
                self.errors.push(format!(
                    "resources.{resource}.groups: no tool is in group `{group}`; groups are: {}",
                    known.join(", ")
                ));
            }
        }
        for tool in config.tools.allow.iter().flatten().chain(&config.tools.deny) {
            if !views.iter().any(|view| view.name == tool) {
                let near = nearest(tool, views.iter().map(|view| view.name));
                let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                self.errors.push(format!("resources.{resource}.tools: there is no tool `{tool}`{hint}"));
            }
        }
    }

    /// Fills the tables of names; what is exact comes before what is simple, that before spellings, and what is ambiguous last.
    fn names(&mut self) {
        let registry = &mut self.registry;
        registry.tools.sort_by(|a, b| a.full_name.cmp(&b.full_name));
        let tools = std::mem::take(&mut registry.tools);
        for (index, tool) in tools.iter().enumerate() {
            if registry.names.insert(tool.full_name.as_str().into(), Named::Tool(index)).is_some() {
                self.errors.push(format!("tool `{}` stands twice, in two backends or free tools", tool.full_name));
            }
        }
        let mut simple: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, tool) in tools.iter().enumerate() {
            // A tool that is off must not make the name of one that is on ambiguous.
            if tool.is_on() {
                simple.entry(&tool.info.name).or_default().push(index);
            }
        }
        let mut aliases: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, tool) in tools.iter().enumerate() {
            for alias in &tool.info.aliases {
                aliases.entry(alias.clone()).or_default().push(index);
            }
        }
        for (alias, indices) in &aliases {
            let of = |index: &usize| (&tools[*index].info.name, &tools[*index].info.description);
            let first = &indices[0];
            // One tool of several resources may share its alias, as it shares its simple name; two tools may not.
            if let Some(other) = indices.iter().find(|other| of(other) != of(first)) {
                let (one, other) = (&tools[*first].full_name, &tools[*other].full_name);
                self.errors.push(format!("alias `{alias}` is claimed by `{one}` and `{other}`"));
            }
            let taken = simple.get(alias.as_str()).filter(|named| *named != indices);
            if let Some(named) = taken {
                let (tool, owner) = (&tools[named[0]].full_name, &tools[*first].full_name);
                self.errors.push(format!("alias `{alias}` of `{owner}` is the name of tool `{tool}`"));
            }
        }
        let simple = simple.into_iter().map(|(name, indices)| (name.to_owned(), indices));
        let (unique, ambiguous): (Vec<_>, Vec<_>) = simple.chain(aliases).partition(|(_, indices)| indices.len() == 1);
        for (name, indices) in unique {
            registry.names.entry(name.into()).or_insert(Named::Tool(indices[0]));
        }
        let mut spellings: BTreeMap<String, usize> = BTreeMap::new();
        for (index, tool) in tools.iter().enumerate() {
            for separator in [".", "_", "-", "__"] {
                let spelling = tool.full_name.replacen(':', separator, 1);
                if let Some(other) = spellings.insert(spelling.clone(), index) {
                    let other = &tools[other].full_name;
                    self.errors.push(format!("`{}` and `{other}` are both spelled `{spelling}`", tool.full_name));
                }
            }
        }
        for (spelling, index) in spellings {
            registry.names.entry(spelling.into()).or_insert(Named::Tool(index));
        }
        // Last: what means several tools must not hide a spelling of one.
        for (name, indices) in ambiguous {
            registry.names.entry(name.into()).or_insert(Named::Ambiguous(indices));
        }
        registry.tools = tools;
    }
}

fn chosen(view: &ToolView, config: &ResourceConfig) -> bool {
    let in_group = match (&config.groups, view.group) {
        (Some(groups), Some(group)) => groups.iter().any(|chosen| chosen == group),
        _ => true,
    };
    let allowed = config.tools.allow.as_ref().is_none_or(|allow| allow.iter().any(|name| name == view.name));
    in_group && allowed && !config.tools.deny.iter().any(|name| name == view.name)
}

fn info(
    view: &ToolView,
    full_name: &str,
    api_name: String,
    resource_type: Option<String>,
    params: &ParamsSchema,
) -> ToolInfo {
    ToolInfo {
        name: view.name.to_owned(),
        full_name: full_name.to_owned(),
        api_name,
        resource_type,
        stateless: view.session == SessionUse::None,
        description: view.description.to_owned(),
        aliases: view.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        group: view.group.map(str::to_owned),
        input_schema: params.published.clone(),
        output_schema: generate(view.output_schema),
        read_only: view.read_only,
        idempotent: view.idempotent,
        hidden: view.hidden,
    }
}

fn limits(resource: &ResourceConfig, config: &Config) -> ResourceLimits {
    ResourceLimits {
        session_ttl: resource.session_ttl.unwrap_or(config.server.session_ttl),
        max_sessions: resource.max_sessions,
        max_sessions_per_worker: resource.max_sessions_per_worker,
        max_concurrent_calls: resource.max_concurrent_calls,
        max_queued_calls: resource.max_queued_calls,
        max_waiting_calls: resource.max_waiting_calls,
        initialize_timeout_seconds: resource.initialize_timeout_seconds,
    }
}

fn not_linked(resource: &str, wanted: &str, linked: &[&LinkedBackend]) -> String {
    let list: Vec<_> =
        linked.iter().map(|b| format!("`{}` (crate {})", b.about().name, b.about().location.krate)).collect();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    format!(
        "resources.{resource}: backend `{wanted}` is not linked into this program; linked are: {list}. \
         Add its crate to Cargo.toml and name it once, such as `use {wanted}_backend as _;`, beside `sandbox_cli::main()`; \
         a stock backend needs its cargo feature of `sandbox-backends`"
    )
}
