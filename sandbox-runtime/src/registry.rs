//! The registry: names of tools and resources, and every check at start.

use std::{any::TypeId, collections::HashMap, fmt, path::Path, sync::Arc, time::Duration};

use sandbox_types::{ErrorCode, ToolInfo};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::{
    backend::Location,
    error::{Result, ToolError},
    nearest::{nearest, shown},
    resource::{CleanupFaults, Resource},
    schema::ParamsSchema,
    tool::SessionUse,
    watchdog::Watchdog,
};

mod build;
mod names;

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
    /// The parameter that a request's body can be.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "uploads come over HTTP"))]
    pub(crate) upload: Option<String>,
    /// As `GET /tools` shows it.
    pub info: ToolInfo,
    /// Where it stands in the source.
    pub(crate) location: Location,
    /// With `index`: which tool this is, whatever resource it runs on.
    backend: TypeId,
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
    /// Whether others than this machine can reach the server.
    pub(crate) exposed: bool,
    pub(crate) faults: Arc<CleanupFaults>,
    pub(crate) cleanups: TaskTracker,
    pub(crate) watchdog: Arc<Watchdog>,
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
            // As long as it is, nothing is near it; to compare it would only take time.
            let near = (name.len() <= LONGEST_NAME).then(|| nearest(name, visible().map(|resource| &*resource.name)));
            let message = format!("resource `{}` does not exist", shown(name));
            ToolError::new(ErrorCode::NOT_FOUND, message).with_candidates(near.flatten().map(str::to_owned))
        })
    }
}
