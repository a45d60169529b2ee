//! Binds what is linked to the configuration: resources and their tools, and every check of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicUsize},
};

use sandbox_types::{ResourceLimits, ToolInfo};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Registry, RegistryErrors, Shared, ToolEntry, names};
use crate::{
    config::{Config, ResourceConfig, ToolChoice},
    context::ResourceContext,
    erase::ToolView,
    error::Result,
    gate::Gate,
    linked::{Linked, LinkedBackend, own_part},
    naming::is_name,
    nearest::nearest,
    resource::Resource,
    schema::{ParamsSchema, generate},
    tool::SessionUse,
};

impl Registry {
    /// Binds the linked backends to the configuration and checks everything that can be checked before the first call.
    ///
    /// # Errors
    /// Every fault of the configuration, the backends and their tools, together.
    pub(crate) fn build(config: &Config, linked: &Linked, shared: &Shared<'_>) -> Result<Self, RegistryErrors> {
        let mut build = Build { shared, errors: linked.errors().to_vec(), tools: Vec::new(), resources: Vec::new() };
        for backend in linked.backends() {
            build.check_names(backend);
        }
        build.configured_resources(config, linked);
        build.sections_and_free_tools(config, linked);
        for name in config.warmup.resources.iter().flatten() {
            if !build.resources.iter().any(|resource| *resource.name == **name) {
                build.errors.push(format!("warmup.resources: `{name}` is no configured, enabled resource"));
            }
        }
        let Build { mut errors, mut tools, resources, .. } = build;
        names::sort(&mut tools, &mut errors);
        errors.extend(names::collisions(&tools));
        if errors.is_empty() {
            Ok(Self { names: names::table(&tools), tools, resources })
        } else {
            Err(RegistryErrors(errors))
        }
    }
}

/// The registry while it is being built.
struct Build<'a> {
    shared: &'a Shared<'a>,
    errors: Vec<String>,
    tools: Vec<Arc<ToolEntry>>,
    resources: Vec<Arc<Resource>>,
}

/// The settings of a backend, and where they stand in the configuration.
struct Settings {
    place: String,
    value: Value,
}

impl Build<'_> {
    /// The names in a backend, which only the macros have checked, and the tools that bear them twice.
    fn check_names(&mut self, backend: &LinkedBackend) {
        let about = backend.about();
        // The backend of a free tool is called by the tool's full name, which is its group's and its own.
        let own = [about.free_tool_group.map_or(("backend", about.name), |group| ("group", group))];
        let section = backend.section().map(|key| ("key of `apis`", key));
        for (what, name) in own.into_iter().chain(section) {
            if !is_name(name) {
                self.errors.push(bad_name(&format!("{what} `{name}`"), &about.location.to_string()));
            }
        }
        let views = backend.backend.tools(&backend.blocks);
        for (index, view) in views.iter().enumerate() {
            let place = format!("tool `{}` of backend `{}`, {}", view.name, about.name, view.location);
            let aliases = view.aliases.iter().map(|alias| ("alias", *alias));
            let names =
                [("name", view.name)].into_iter().chain(aliases).chain(view.group.map(|group| ("group", group)));
            // An alias may be a full name.
            let is_right = |what: &str, name: &str| match name.split_once(':') {
                Some((group, name)) => what == "alias" && is_name(group) && is_name(name),
                None => is_name(name),
            };
            for (what, name) in names.filter(|(what, name)| !is_right(what, name)) {
                self.errors.push(bad_name(&format!("{what} `{name}`"), &place));
            }
            if let Some(earlier) = views[..index].iter().find(|earlier| earlier.name == view.name) {
                self.errors.push(format!(
                    "tool `{}` of backend `{}` stands twice: {} and {}; rename one",
                    view.name, about.name, earlier.location, view.location
                ));
            }
        }
    }

    /// `resources.*`.
    fn configured_resources(&mut self, config: &Config, linked: &Linked) {
        let candidates: Vec<&LinkedBackend> =
            linked.backends().iter().filter(|b| b.about().free_tool_group.is_none()).collect();
        for (name, resource) in config.resources.iter().filter(|(_, resource)| resource.enabled) {
            let wanted = resource.backend_name(name);
            match candidates.iter().find(|backend| backend.about().name == wanted) {
                Some(backend) => {
                    let settings =
                        Settings { place: format!("resources.{name}.config"), value: resource.config.clone() };
                    self.add_resource(name, backend, resource, settings, config);
                }
                None => self.errors.push(not_linked(name, &wanted, &candidates)),
            }
        }
    }

    /// Lightweight backends and free tools, which are on when their section is there.
    fn sections_and_free_tools(&mut self, config: &Config, linked: &Linked) {
        for backend in linked.backends() {
            let about = backend.about();
            let configured = about.free_tool_group.is_none()
                && config.resources.get(about.name).is_some_and(|resource| resource.enabled);
            let value = match (about.config_section, backend.section().map(|key| config.apis.get(key))) {
                (Some(section), Some(Some(_))) if configured => {
                    self.errors.push(format!(
                        "resources.{}: a backend of this name is switched on by `{section}` already",
                        about.name
                    ));
                    continue;
                }
                (_, Some(Some(section))) => own_part(section, &backend.backend.config_schema()),
                (Some(section), _) if !configured => {
                    self.add_tools(about.name, backend, &Err(section), &ResourceConfig::default());
                    continue;
                }
                (None, _) if about.free_tool_group.is_some() => Value::Object(Map::new()),
                _ => continue,
            };
            let settings = Settings { place: about.config_section.unwrap_or_default().to_owned(), value };
            self.add_resource(about.name, backend, &ResourceConfig::default(), settings, config);
        }
    }

    fn add_resource(
        &mut self,
        name: &str,
        backend: &LinkedBackend,
        resource: &ResourceConfig,
        Settings { place, value: configuration }: Settings,
        config: &Config,
    ) {
        let about = backend.about();
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
        let context =
            Arc::new(ResourceContext::new(name.into(), data_dir, self.shared.exposed, self.shared.runtime.clone()));
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
            watchdog: self.shared.watchdog.clone(),
            start: crate::resource::Start::default(),
            initialize_pace: crate::pace::Pace::default(),
            cleanup_pace: crate::pace::Pace::default(),
        });
        self.resources.push(resource_entry.clone());
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
        let mut names = BTreeSet::new();
        for (index, view) in views.into_iter().enumerate() {
            // Of two with one name, which `check_names` has reported, the first stands for both.
            if !names.insert(view.name) || !chosen(&view, resource_name, config) {
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
            let checked = ParamsSchema::new(view.input_schema, view.defaults).and_then(|params| {
                let upload = crate::bytes::parameter(&params.published).map_err(|error| vec![error])?;
                Ok((params, upload))
            });
            match checked {
                Ok((params, upload)) => {
                    let info = info(&view, &full_name, api_name, resource_type.clone(), &params);
                    self.tools.push(Arc::new(ToolEntry {
                        full_name,
                        resource_type,
                        index,
                        session: view.session,
                        blocking: view.blocking,
                        timeout: view.timeout,
                        params,
                        upload,
                        info,
                        location: view.location,
                        backend: backend.backend.type_id(),
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
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ));
            }
        }
        let ToolChoice { allow, deny } = &config.tools;
        for (key, tools) in [("allow", allow.as_deref().unwrap_or_default()), ("deny", deny)] {
            for (index, tool) in tools.iter().enumerate() {
                let simple = ToolChoice::simple_name(resource, tool);
                if !views.iter().any(|view| view.name == simple) {
                    let near = nearest(simple, views.iter().map(|view| view.name));
                    let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                    self.errors
                        .push(format!("resources.{resource}.tools.{key}[{index}]: there is no tool `{tool}`{hint}"));
                }
            }
        }
    }
}

fn bad_name(name: &str, place: &str) -> String {
    format!("{place}: expected names `[a-z][a-z0-9_]*` without `__`, found {name}; rename it")
}

fn chosen(view: &ToolView, resource: &str, config: &ResourceConfig) -> bool {
    let in_group = match (&config.groups, view.group) {
        (Some(groups), Some(group)) => groups.iter().any(|chosen| chosen == group),
        _ => true,
    };
    in_group && config.tools.offers(resource, view.name)
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
