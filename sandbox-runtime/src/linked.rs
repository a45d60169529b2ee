//! What is linked into this program: backends, their further blocks, and the schemas of their configurations.

use std::{any::TypeId, collections::BTreeMap};

use serde_json::{Map, Value, json};

use crate::{
    backend::About,
    config::SectionSchemas,
    erase::{DynBackend, DynBlock},
    slice::{BACKENDS, BackendEntry, TOOL_BLOCKS, ToolBlock},
};

/// The backends of this program.
pub struct Linked {
    backends: Vec<LinkedBackend>,
    schemas: BTreeMap<&'static str, Value>,
    sections: BTreeMap<String, Value>,
    errors: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct LinkedBackend {
    pub(crate) backend: &'static dyn DynBackend,
    pub(crate) blocks: Vec<DynBlock>,
}

impl LinkedBackend {
    pub(crate) fn about(&self) -> &'static About {
        self.backend.about()
    }

    /// `key` of `config = "apis.key"`.
    pub(crate) fn section(&self) -> Option<&'static str> {
        self.about().config_section.map(|section| section.strip_prefix("apis.").unwrap_or(section))
    }
}

impl Linked {
    /// Collects what the linker put into the distributed slices.
    pub fn discover() -> Self {
        Self::of(BACKENDS.iter().copied(), TOOL_BLOCKS.iter().copied())
    }

    /// The same for given entries, such as those of a test.
    pub fn of(backends: impl IntoIterator<Item = BackendEntry>, blocks: impl IntoIterator<Item = ToolBlock>) -> Self {
        let mut errors = Vec::new();
        let mut linked: Vec<LinkedBackend> =
            backends.into_iter().map(|entry| LinkedBackend { backend: entry.backend, blocks: Vec::new() }).collect();
        // The linker's order is its own; errors and listings must not depend on it.
        linked.sort_by_key(|linked| {
            let about = linked.about();
            (about.name, about.free_tool_group, about.location.file, about.location.line)
        });
        let by_type: BTreeMap<TypeId, usize> =
            linked.iter().enumerate().map(|(index, linked)| (linked.backend.type_id(), index)).collect();
        let mut blocks: Vec<ToolBlock> = blocks.into_iter().collect();
        blocks.sort_by_key(|block| (block.location.file, block.location.line));
        for block in blocks {
            let (type_id, type_name) = (block.block.backend)();
            match by_type.get(&type_id) {
                Some(index) => linked[*index].blocks.push(block.block),
                None => errors.push(format!(
                    "`#[tools]` block of `{type_name}` in {}: this type has no registered `#[backend]` block; add one, or name its crate beside `sandbox_cli::main()`",
                    block.location
                )),
            }
        }
        // The first keeps its name, so that a duplicate is one error and no more; free tools are compared by full name.
        linked.dedup_by(|later, first| {
            let (one, other) = (first.about(), later.about());
            let twice = one.name == other.name && one.free_tool_group.is_none() && other.free_tool_group.is_none();
            if twice {
                let (name, one, other) = (one.name, one.location, other.location);
                errors.push(format!("backend `{name}` stands twice: {one} and {other}; rename one"));
            }
            twice
        });
        let mut schemas = BTreeMap::new();
        let mut sections: BTreeMap<String, Value> = BTreeMap::new();
        for backend in &linked {
            let schema = backend.backend.config_schema();
            match backend.section() {
                Some(section) => {
                    let shared = sections.entry(section.to_owned()).or_insert_with(|| json!({ "type": "object" }));
                    merge(shared, &schema);
                }
                None if backend.about().free_tool_group.is_none() => {
                    schemas.insert(backend.about().name, schema);
                }
                None => {}
            }
        }
        Self { backends: linked, schemas, sections, errors }
    }

    /// Puts something around each backend.
    #[cfg(feature = "testing")]
    pub(crate) fn wrap(&mut self, wrap: impl Fn(&'static dyn DynBackend) -> &'static dyn DynBackend) {
        for linked in &mut self.backends {
            linked.backend = wrap(linked.backend);
        }
    }

    pub(crate) fn backends(&self) -> &[LinkedBackend] {
        &self.backends
    }

    pub(crate) fn errors(&self) -> &[String] {
        &self.errors
    }
}

impl SectionSchemas for Linked {
    fn backend(&self, backend_name: &str) -> Option<&Value> {
        self.schemas.get(backend_name)
    }

    fn api(&self, key: &str) -> Option<&Value> {
        self.sections.get(key)
    }

    fn backend_names(&self) -> Vec<&str> {
        self.schemas.keys().copied().collect()
    }

    fn api_keys(&self) -> Vec<&str> {
        self.sections.keys().map(String::as_str).collect()
    }
}

/// Adds a schema to that of a section which several tools share: it knows the keys of them all.
fn merge(shared: &mut Value, schema: &Value) {
    for keyword in ["properties", "$defs"] {
        let Some(added) = schema.get(keyword).and_then(Value::as_object) else { continue };
        if let Some(object) = shared.as_object_mut() {
            let all = object.entry(keyword).or_insert_with(|| Value::Object(Map::new()));
            if let Some(all) = all.as_object_mut() {
                all.extend(added.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
    }
    if let (Some(object), Some(more)) = (shared.as_object_mut(), schema.get("additionalProperties"))
        && *more != Value::Bool(false)
    {
        object.insert("additionalProperties".into(), more.clone());
    }
}

/// The part of a shared section that one of its tools knows.
pub(crate) fn own_part(section: &Value, schema: &Value) -> Value {
    let open = schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
    match (section.as_object(), schema.get("properties").and_then(Value::as_object)) {
        (Some(section), Some(known)) if !open => {
            section.iter().filter(|(key, _)| known.contains_key(*key)).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        (Some(_), None) if !open => Value::Object(Map::new()),
        _ => section.clone(),
    }
}
