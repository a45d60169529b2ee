//! The table of names: every spelling by which a tool is found, and what may not be called alike.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{Named, ToolEntry};

/// What stands in a full name where it is spelled without the colon.
const SEPARATORS: [&str; 4] = [".", "_", "-", "__"];

pub(super) type Table = HashMap<Box<str>, Named, ahash::RandomState>;

/// A tool and its place, as the errors name it.
fn cited(tool: &ToolEntry) -> String {
    format!("`{}`, {}", tool.full_name, tool.location)
}

/// Whether this is one tool, on two resources.
fn same(one: &ToolEntry, other: &ToolEntry) -> bool {
    (one.backend, one.index) == (other.backend, other.index)
}

/// The full name, and each alias that is one, with other signs for the colon.
fn spellings(tool: &ToolEntry) -> impl Iterator<Item = (&str, String)> {
    let aliases = tool.info.aliases.iter().map(String::as_str).filter(|alias| alias.contains(':'));
    let names = std::iter::once(tool.full_name.as_str()).chain(aliases);
    names.flat_map(|name| SEPARATORS.iter().map(move |separator| (name, name.replacen(':', separator, 1))))
}

/// Sorts the tools by full name and leaves each name to one of them, so that a duplicate is one error and no more.
pub(super) fn sort(tools: &mut Vec<Arc<ToolEntry>>, errors: &mut Vec<String>) {
    tools.sort_by(|a, b| {
        let key = |tool: &ToolEntry| (tool.location.file, tool.location.line, tool.index);
        a.full_name.cmp(&b.full_name).then_with(|| key(a).cmp(&key(b)))
    });
    tools.dedup_by(|later, first| {
        let twice = later.full_name == first.full_name;
        if twice {
            let (name, one, other) = (&first.full_name, first.location, later.location);
            errors.push(format!("tool `{name}` stands twice: {one} and {other}; rename one"));
        }
        twice
    });
}

/// What each tool is found by; full names come before simple ones and aliases, those before spellings, and what is
/// ambiguous last: it must not hide a spelling of one tool. A tool that is off takes no name from one that is on.
pub(super) fn table(tools: &[Arc<ToolEntry>]) -> Table {
    let mut table = Table::default();
    for (index, tool) in tools.iter().enumerate() {
        table.insert(tool.full_name.as_str().into(), Named::Tool(index));
    }
    for on in [true, false] {
        let tools = || tools.iter().enumerate().filter(|(_, tool)| tool.is_on() == on);
        let mut named: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (index, tool) in tools() {
            for name in tool.info.aliases.iter().chain([&tool.info.name]) {
                named.entry(name).or_default().insert(index);
            }
        }
        let (unique, ambiguous): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, indices)| indices.len() == 1);
        for (name, index) in unique.into_iter().flat_map(|(name, indices)| indices.into_iter().map(move |i| (name, i)))
        {
            table.entry(name.into()).or_insert(Named::Tool(index));
        }
        for (index, tool) in tools() {
            for (_, spelling) in spellings(tool) {
                table.entry(spelling.into()).or_insert(Named::Tool(index));
            }
        }
        for (name, indices) in ambiguous {
            table.entry(name.into()).or_insert_with(|| Named::Ambiguous(indices.into_iter().collect()));
        }
    }
    table
}

/// Every alias that is also a name of another tool, and every two tools with one spelling. Tools that are off count:
/// otherwise a section that is added to the configuration could stop a server that has always started.
pub(super) fn collisions(tools: &[Arc<ToolEntry>]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut aliases: BTreeMap<&str, Vec<&ToolEntry>> = BTreeMap::new();
    let mut names: BTreeMap<String, Vec<(&str, &ToolEntry)>> = BTreeMap::new();
    let mut spelled: BTreeMap<String, &ToolEntry> = BTreeMap::new();
    // Two tools that share one spelling may share several: one error is enough.
    let mut told = BTreeSet::new();
    // An alias that is another's full name is one mistake, whatever follows from it.
    let is_of_another =
        |name: &str, tool: &ToolEntry| tools.iter().any(|other| other.full_name == name && !same(other, tool));
    for tool in tools {
        for alias in &tool.info.aliases {
            let owners = aliases.entry(alias).or_default();
            // One tool of several resources may share its alias, as it shares its simple name; two tools may not.
            if !owners.iter().any(|owner| same(owner, tool)) {
                owners.push(tool);
            }
        }
        names.entry(tool.full_name.clone()).or_default().push(("the full name", tool));
        names.entry(tool.info.name.clone()).or_default().push(("the name", tool));
        for spelling in spellings(tool).filter(|(name, _)| !is_of_another(name, tool)).map(|(_, spelling)| spelling) {
            names.entry(spelling.clone()).or_default().push(("a spelling", tool));
            let first = *spelled.entry(spelling.clone()).or_insert(tool);
            if first.full_name != tool.full_name && told.insert((&first.full_name, &tool.full_name)) {
                let (one, other) = (cited(first), cited(tool));
                errors.push(format!("tools {one}, and {other}, are both spelled `{spelling}`; rename one"));
            }
        }
    }
    for (alias, owners) in &aliases {
        for other in &owners[1..] {
            let (one, other) = (cited(owners[0]), cited(other));
            errors.push(format!("alias `{alias}` belongs to two tools: {one}, and {other}; rename one"));
        }
        for owner in owners {
            for what in ["the full name", "the name", "a spelling"] {
                let mut alike = names.get(*alias).into_iter().flatten();
                if let Some((_, tool)) = alike.find(|(kind, tool)| *kind == what && !same(owner, tool)) {
                    let (owner, tool) = (cited(owner), cited(tool));
                    errors.push(format!("alias `{alias}` of tool {owner}, is {what} of tool {tool}; rename the alias"));
                }
            }
        }
    }
    errors
}
