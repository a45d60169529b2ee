//! `sandbox new`: a crate with a backend, or a tool, that compiles and passes its tests.

use std::{
    env, fs, io,
    path::{Component, Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{
    FAILED, NOT_RUN,
    args::{Kind, New, NewCommand, NewOptions},
    print, program,
};

/// Words that cannot name a crate's module.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "test", "trait",
    "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// What is made, and the words of its templates.
struct Plan {
    krate: String,
    /// Of the backend, or of the tool's section of `apis`.
    name: String,
    /// Full name of a tool.
    tool: String,
    what: &'static str,
    summary: &'static str,
    source: &'static str,
    test: &'static str,
    sections: String,
    call: String,
}

pub(crate) fn run(args: New) -> ExitCode {
    let (plan, options) = match args.command {
        NewCommand::Backend { name, kind, options } => (backend(&name, kind), options),
        NewCommand::Tool { name, options } => (tool(&name), options),
    };
    let made = plan.and_then(|plan| make(&plan, &options).map(|folder| (plan, folder)));
    let (plan, folder) = match made {
        Ok(made) => made,
        Err(error) => return print::errors(&error, NOT_RUN),
    };
    if options.test {
        return test(&folder);
    }
    let shown = folder.display();
    let next = format!(
        "made {shown}\n\n  cd {shown}\n  cargo test\n  cargo run -q -p {}-server -- exec {} --config config.json",
        plan.krate, plan.call
    );
    print::exit(print::line(next), ExitCode::SUCCESS)
}

fn backend(name: &str, kind: Kind) -> Result<Plan, String> {
    let name = plain_name(name)?;
    let (source, test, summary, config, call) = match kind {
        Kind::Session => (
            include_str!("../templates/session.rs.in"),
            include_str!("../templates/session.test.rs.in"),
            "Keeps notes, for each session its own.",
            r#"{ "max_notes": 100 }"#,
            format!("{name}:add text=milk"),
        ),
        Kind::Shared => (
            include_str!("../templates/shared.rs.in"),
            include_str!("../templates/shared.test.rs.in"),
            "Keeps values by key, the same for all workers.",
            r#"{ "values": { "colour": "blue" } }"#,
            format!("{name}:get key=colour"),
        ),
        Kind::Mixed => (
            include_str!("../templates/mixed.rs.in"),
            include_str!("../templates/mixed.test.rs.in"),
            "Lends numbered tickets to sessions; all sessions share the tickets.",
            r#"{ "tickets": 10 }"#,
            format!("{name}:take"),
        ),
    };
    Ok(Plan {
        krate: name.replace('_', "-"),
        tool: String::new(),
        what: "backend",
        summary,
        source,
        test,
        sections: format!(r#"  "resources": {{ "{name}": {{ "session_ttl": 300, "config": {config} }} }}"#),
        call,
        name,
    })
}

fn tool(name: &str) -> Result<Plan, String> {
    let (group, tool) = name.split_once(':').unwrap_or(("tools", name));
    let (group, tool) = (plain_name(group)?, plain_name(tool)?);
    let full = format!("{group}:{tool}");
    Ok(Plan {
        krate: tool.replace('_', "-"),
        what: "tool",
        summary: "Counts the words of a text.",
        source: include_str!("../templates/tool.rs.in"),
        test: include_str!("../templates/tool.test.rs.in"),
        sections: format!(r#"  "apis": {{ "{tool}": {{ "max_bytes": 1048576 }} }}"#),
        call: format!("{full} text='one two'"),
        tool: full,
        name: tool,
    })
}

/// The name of a backend or tool.
///
/// # Errors
/// It can be none.
fn plain_name(given: &str) -> Result<String, String> {
    let name = given.replace('-', "_");
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !letters || !begins || name.contains("__") || name.ends_with('_') || name.len() > 48 {
        return Err(format!(
            "expected a name of lower-case letters, digits and single `_` or `-`, beginning with a letter, at most 48 long; found `{given}`"
        ));
    }
    if KEYWORDS.contains(&&*name) {
        return Err(format!("`{given}` is a word of Rust; take another name"));
    }
    Ok(name)
}

/// Writes the crate.
///
/// # Errors
/// The folder is not free, or cannot be written to; the crates of this project are not found.
fn make(plan: &Plan, options: &NewOptions) -> Result<PathBuf, String> {
    let folder = options.path.clone().unwrap_or_else(|| PathBuf::from(&plan.krate));
    let failed = |error: io::Error| format!("{}: {error}", folder.display());
    let there = match fs::read_dir(&folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed(error)),
    };
    if there {
        return Err(format!("{} is not empty; name another folder with --path", folder.display()));
    }
    let absolute = std::path::absolute(&folder).map_err(failed)?;
    let sandbox = sandbox(options, &absolute)?;
    let files = files(plan, &sandbox, &absolute);
    for (name, text) in files {
        let path = absolute.join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&absolute))?;
            fs::write(&path, text)
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    // The versions that this project was tested with; what is not needed of them, cargo leaves out.
    let _ = fs::copy(sandbox.join("Cargo.lock"), absolute.join("Cargo.lock"));
    // Where lines break depends on the names. Without a formatter they stay as they are.
    let _ = cargo("fmt", &absolute).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(folder)
}

fn files(plan: &Plan, sandbox: &Path, folder: &Path) -> Vec<(String, String)> {
    let krate = plan.krate.replace('-', "_");
    let to_sandbox = |from: &Path| relative(from, sandbox).display().to_string();
    // As rustfmt sorts them.
    let mut uses = [format!("{krate} as _"), "sandbox_backends as _".to_owned()];
    uses.sort();
    let words = [
        ("{{crate}}", plan.krate.clone()),
        ("{{krate}}", krate.clone()),
        ("{{name}}", plan.name.clone()),
        ("{{Type}}", type_name(&plan.name)),
        ("{{tool}}", plan.tool.clone()),
        ("{{what}}", plan.what.to_owned()),
        ("{{summary}}", plan.summary.to_owned()),
        ("{{sections}}", plan.sections.clone()),
        ("{{call}}", plan.call.clone()),
        ("{{sandbox}}", to_sandbox(folder)),
        ("{{sandbox_from_server}}", to_sandbox(&folder.join("server"))),
        ("{{use_server}}", uses.join(", ")),
    ];
    let fill = |template: &str| words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value));
    let templates = [
        ("Cargo.toml".to_owned(), include_str!("../templates/Cargo.toml.in")),
        ("src/lib.rs".to_owned(), plan.source),
        (format!("tests/{krate}.rs"), plan.test),
        ("server/Cargo.toml".to_owned(), include_str!("../templates/server.Cargo.toml.in")),
        ("server/src/main.rs".to_owned(), include_str!("../templates/server.rs.in")),
        ("config.json".to_owned(), include_str!("../templates/config.json.in")),
        ("README.md".to_owned(), include_str!("../templates/README.md.in")),
        (".gitignore".to_owned(), include_str!("../templates/gitignore.in")),
    ];
    templates.map(|(name, template)| (name, fill(template))).to_vec()
}

fn type_name(name: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('_').map(capital).collect()
}

/// The folder of this project's crates: the one that is named, or around the new crate, or that this program was made from.
///
/// # Errors
/// It is in none of these places.
fn sandbox(options: &NewOptions, folder: &Path) -> Result<PathBuf, String> {
    let has_crates = |folder: &Path| folder.join("sandbox-runtime/Cargo.toml").is_file();
    if let Some(named) = &options.sandbox {
        let named = std::path::absolute(named).map_err(|error| format!("--sandbox: {error}"))?;
        return if has_crates(&named) {
            Ok(named)
        } else {
            Err(format!("--sandbox: expected the folder with sandbox-runtime in it, found {}", named.display()))
        };
    }
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let found = folder.ancestors().chain(built_from).find(|folder| has_crates(folder));
    found.map(Path::to_owned).ok_or_else(|| {
        "the crates of this project are not around here; name the folder that has sandbox-runtime in it with --sandbox"
            .to_owned()
    })
}

/// The way from one folder to another; both are absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    // Nothing in common but the root: an absolute path says it better.
    if common <= 1 {
        return to.iter().collect();
    }
    let up = from[common..].iter().map(|_| Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

fn cargo(command: &str, folder: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(command).current_dir(folder);
    cargo
}

/// Runs the tests of a new crate.
fn test(folder: &Path) -> ExitCode {
    match cargo("test", folder).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(FAILED),
        Err(error) => {
            print::errors(&format!("{} made {}, but cargo cannot be run: {error}", program(), folder.display()), FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{backend, plain_name, relative, tool, type_name};
    use crate::args::Kind;

    #[test]
    fn names_become_crates_backends_and_types() {
        let plan = backend("ticket-store", Kind::Mixed).expect("a good name");
        assert_eq!(
            (&*plan.krate, &*plan.name, &*type_name(&plan.name)),
            ("ticket-store", "ticket_store", "TicketStore")
        );
        let (single, grouped) = (tool("word_count").expect("a good name"), tool("text:count").expect("a good name"));
        assert_eq!((&*single.tool, &*grouped.tool), ("tools:word_count", "text:count"));
        for bad in ["", "Vm", "1st", "a__b", "a b", "ä", "a_", "match", &"x".repeat(49), "a:b:c"] {
            assert!(plain_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_between_folders() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).display().to_string();
        assert_eq!(way("/a/b/new", "/a/b"), "..");
        assert_eq!(way("/a/x/y", "/a/b/c"), "../../b/c");
        assert_eq!(way("/tmp/new", "/src/sandbox"), "/src/sandbox");
    }
}
