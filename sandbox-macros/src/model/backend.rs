//! A block of methods: the `#[backend]` block of a type, and its further `#[tools]` blocks.

use proc_macro2::TokenStream;
use syn::{Attribute, ImplItem, ItemImpl, Type};

use crate::{
    attr::{self, BackendOptions, ToolOptions},
    docs,
    errors::{Errors, spelled},
    model::{
        check_name, check_section,
        lifecycle::{Hook, Hooks, Phase},
        name_fault,
        tool::{Place, Tool},
    },
};

/// A `#[backend]` block, checked.
pub(crate) struct Backend {
    /// The type.
    pub(crate) self_ty: Type,
    /// Its name.
    pub(crate) name: String,
    /// The doc comment of the block.
    pub(crate) description: String,
    /// `version = ".."`.
    pub(crate) version: Option<String>,
    /// `config = "apis.key"`.
    pub(crate) config_section: Option<String>,
    /// `#[cfg(..)]` of the block.
    pub(crate) cfgs: Vec<Attribute>,
    /// The lifecycle methods.
    pub(crate) hooks: Hooks,
    /// The tools.
    pub(crate) tools: Vec<Tool>,
}

/// A `#[tools]` block, checked.
pub(crate) struct ToolsBlock {
    /// The type.
    pub(crate) self_ty: Type,
    /// `#[cfg(..)]` of the block.
    pub(crate) cfgs: Vec<Attribute>,
    /// The tools.
    pub(crate) tools: Vec<Tool>,
}

impl Backend {
    /// Reads a block and takes away the attributes that are ours. Nothing if it cannot be a backend's block at all.
    pub(crate) fn parse(options: TokenStream, item: &mut ItemImpl, errors: &mut Errors) -> Option<Self> {
        let no_options = options.is_empty();
        let options = BackendOptions::parse(options, errors);
        match &options.name {
            Some(name) => check_name(name, "a backend", errors),
            None if no_options => {
                errors.on(&item.self_ty, "a backend needs a name; write `#[backend(name = \"vm\")]`");
            }
            None => errors.on(&item.self_ty, "a backend needs a name; add `name = \"vm\"` to `#[backend(..)]`"),
        }
        if let Some(section) = &options.config {
            check_section(section, errors);
        }
        let sound = check_block(item, "#[backend]", errors);
        let mut hooks = Hooks::default();
        for item in &mut item.items {
            let ImplItem::Fn(method) = item else { continue };
            let Some(phase) = Phase::of(&method.sig.ident) else { continue };
            if let Some(attribute) = attr::take(&mut method.attrs, "tool") {
                let name = phase.name();
                errors.on(attribute, format!("`{name}` is a lifecycle method, called by the runtime, and cannot be a tool; remove `#[tool]`, or rename the method"));
            }
            let hook = Hook::parse(phase, &mut method.attrs, &mut method.sig, errors);
            hooks.slot(phase).get_or_insert(hook);
        }
        take_misspelt(item, &mut hooks, errors);
        hooks.check(errors);
        let name = options.name.as_ref().map(syn::LitStr::value);
        let place = Place::Backend {
            name: name.as_deref().filter(|name| name_fault(name).is_none()),
            has_sessions: hooks.initialize.is_some(),
            session: hooks.session(),
            shared: hooks.shared(),
        };
        let tools = parse_tools(item, place, errors);
        sound.then(|| Self {
            self_ty: (*item.self_ty).clone(),
            name: name.unwrap_or_default(),
            description: docs::text(&item.attrs),
            version: options.version.map(|version| version.value()),
            config_section: options.config.map(|config| config.value()),
            cfgs: cfgs(&item.attrs),
            hooks,
            tools,
        })
    }
}

impl ToolsBlock {
    /// Reads a block and takes away the attributes that are ours.
    pub(crate) fn parse(options: &TokenStream, item: &mut ItemImpl, errors: &mut Errors) -> Option<Self> {
        if !options.is_empty() {
            errors.on(
                options,
                format!(
                    "`#[tools]` takes no options, found `{options}`; they stand in `#[backend(..)]` and `#[tool(..)]`"
                ),
            );
        }
        let sound = check_block(item, "#[tools]", errors);
        for item in &item.items {
            let ImplItem::Fn(method) = item else { continue };
            if let Some(phase) = Phase::of(&method.sig.ident) {
                let name = phase.name();
                errors.on(&method.sig.ident, format!("`{name}` is a lifecycle method and would not be called from a `#[tools]` block; move it to the `#[backend]` block"));
            }
        }
        let tools = parse_tools(item, Place::Tools, errors);
        sound.then(|| Self { self_ty: (*item.self_ty).clone(), cfgs: cfgs(&item.attrs), tools })
    }
}

/// Notes helpers that are named almost like a lifecycle method that is not there, and goes on as if they were it: all else
/// that they are not would be a mistake more.
fn take_misspelt(item: &mut ItemImpl, hooks: &mut Hooks, errors: &mut Errors) {
    for item in &mut item.items {
        let ImplItem::Fn(method) = item else { continue };
        let Some(phase) = Phase::meant(&method.sig) else { continue };
        if hooks.slot(phase).is_some() || method.attrs.iter().any(|attribute| attr::is(attribute, "tool")) {
            continue;
        }
        let name = phase.name();
        errors.on(&method.sig.ident, format!("did you mean `{name}`? The runtime calls the lifecycle methods by name; a helper needs another name, or a place outside this block"));
        let mut unsaid = Errors::default();
        *hooks.slot(phase) = Some(Hook::parse(phase, &mut method.attrs, &mut method.sig, &mut unsaid));
    }
}

fn cfgs(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).cloned().collect()
}

/// Notes a block that is no plain `impl Type`; whether it is one.
fn check_block(item: &ItemImpl, attribute: &str, errors: &mut Errors) -> bool {
    let before = errors.len();
    let ty = spelled(&item.self_ty);
    if let Some((path, _)) = &item.trait_ {
        errors.on(path, format!("`{attribute}` stands on the type's own block, found an implementation of a trait; write `impl {ty} {{ .. }}`"));
    }
    if !item.generics.params.is_empty() {
        errors.on(
            &item.generics,
            "a backend is one type, registered by name, so its block cannot be generic; name the types",
        );
    } else if let Some(clause) = &item.generics.where_clause {
        errors.on(clause, "a backend is one type, registered by name, so its block takes no `where` clause; remove it");
    }
    if !matches!(&*item.self_ty, Type::Path(_) | Type::Group(_)) {
        errors.on(&item.self_ty, format!("`{attribute}` stands on the block of a struct or enum, found `{ty}`"));
    }
    errors.len() == before
}

fn parse_tools(item: &mut ItemImpl, place: Place<'_>, errors: &mut Errors) -> Vec<Tool> {
    let mut tools = Vec::new();
    for item in &mut item.items {
        let ImplItem::Fn(method) = item else { continue };
        let Some(attribute) = attr::take(&mut method.attrs, "tool") else { continue };
        let options = ToolOptions::of(&attribute, errors);
        tools.extend(Tool::parse(options, &mut method.attrs, &mut method.sig, place, errors));
    }
    check_names(&tools, errors);
    tools
}

/// Notes names and aliases that stand twice in a block. Under `#[cfg]` one name may have several methods.
fn check_names(tools: &[Tool], errors: &mut Errors) {
    let mut names: Vec<(String, &Tool)> = Vec::new();
    for tool in tools {
        let aliases = tool.options.aliases.iter().map(|alias| (alias.value(), alias.span()));
        for (name, span) in std::iter::once((tool.name.clone(), tool.name_span)).chain(aliases) {
            let earlier = names.iter().find(|(earlier, other)| {
                *earlier == name && (std::ptr::eq(*other, tool) || tool.cfgs.is_empty() || other.cfgs.is_empty())
            });
            if let Some((_, other)) = earlier {
                let other = &other.ident;
                errors.push(syn::Error::new(span, format!("the name `{name}` stands twice in this block: `{other}` has it too; give each tool names of its own")));
            }
            names.push((name, tool));
        }
    }
}
