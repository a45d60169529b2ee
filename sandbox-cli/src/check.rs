//! `sandbox check`, and the loading and checking of configurations for all commands.

use std::{collections::BTreeSet, fmt, io, path::PathBuf, process::ExitCode, sync::Arc};

use sandbox_runtime::{
    config::{Config, ConfigErrors, Loader, SectionSchemas as _},
    executor::ToolExecutor,
    host::{Host, HostError},
    linked::Linked,
};

use crate::{
    FAILED,
    args::{Check, ConfigFile},
    print,
};

/// A configuration, less what is wrong with it.
pub(crate) struct Read {
    pub(crate) config: Config,
    file: Option<PathBuf>,
    errors: Option<ConfigErrors>,
}

/// Everything that is wrong with a configuration, under the name of its file.
#[derive(Debug)]
pub(crate) struct Faults {
    file: Option<PathBuf>,
    lines: Vec<String>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(file) = self.file.as_ref().map(|file| file.display().to_string()) else {
            return f.write_str(&self.lines.join("\n"));
        };
        // One that cannot be read is named by the fault itself.
        if let [only] = &*self.lines
            && only.starts_with(&format!("{file}: "))
        {
            return f.write_str(only);
        }
        write!(f, "{file}:")?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Loads the named file, or what stands for one, with the overrides of the environment.
pub(crate) fn read(file: &ConfigFile, linked: &Linked) -> Read {
    let loader = Loader::new(linked).process_env();
    let loader = match &file.config {
        Some(path) => loader.file(path),
        None => loader,
    };
    let (right, errors) = loader.load_what_is_right();
    Read { config: right.config, file: file.config.clone(), errors }
}

impl Read {
    /// Changes a configuration that is right so far, and checks it again.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        if self.errors.is_none() {
            self.errors = self.config.validate().err();
        }
    }

    /// Checks the configuration against the linked backends.
    ///
    /// # Errors
    /// Every fault of both, together.
    pub(crate) fn check(self, linked: &Linked) -> Result<(Config, Arc<ToolExecutor>), Faults> {
        let Self { config, file, errors } = self;
        let checked = Host::check(&config, linked);
        let errors = errors.map_or_else(Vec::new, |errors| errors.0);
        let mut lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        match checked {
            Ok(executor) if lines.is_empty() => return Ok((config, executor)),
            Ok(_) => {}
            Err(HostError::Registry(more)) => {
                // A field may be missing only because it was left out for a fault of its own.
                let only_follows = |line: &str| {
                    missing_field(line).is_some_and(|field| errors.iter().any(|error| is_within(&error.path, &field)))
                };
                for line in more.0 {
                    if !only_follows(&line) && !lines.contains(&line) {
                        lines.push(line);
                    }
                }
            }
            Err(other) => lines.push(other.to_string()),
        }
        Err(Faults { file, lines })
    }
}

/// Whether `path` is `place` or inside it.
fn is_within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The path of the field that a fault says is missing.
fn missing_field(line: &str) -> Option<String> {
    let (place, fault) = line.split_once(": ")?;
    let (field, _) = fault.strip_prefix("missing field `")?.split_once('`')?;
    Some(format!("{place}.{field}"))
}

pub(crate) fn run(args: &Check) -> ExitCode {
    let linked = Linked::discover();
    if args.schema {
        return print::exit(print::json(&Config::json_schema(&linked)), ExitCode::SUCCESS);
    }
    match read(&args.config, &linked).check(&linked) {
        Ok((config, executor)) => print::exit(summary(&config, &executor, &linked), ExitCode::SUCCESS),
        Err(faults) => print::errors(&faults, FAILED),
    }
}

fn summary(config: &Config, executor: &ToolExecutor, linked: &Linked) -> io::Result<()> {
    let (on, off): (Vec<_>, Vec<_>) = executor.registry().tools().partition(|tool| tool.is_on());
    let resources = executor.resources().len();
    print::line(format!("ok: {}, {}", counted(resources, "resource"), counted(on.len(), "tool")))?;
    let used: BTreeSet<_> = config.resources.iter().map(|(name, resource)| resource.backend_name(name)).collect();
    let backends = linked.backend_names().into_iter().filter(|name| !used.contains(*name)).map(str::to_owned);
    let sections = linked.api_keys().into_iter().filter(|key| !config.apis.contains_key(*key));
    let idle: Vec<_> = backends.chain(sections.map(|key| format!("apis.{key}"))).collect();
    if !idle.is_empty() {
        print::line(format!("linked, not configured: {}", idle.join(", ")))?;
    }
    off.iter().try_for_each(|tool| {
        print::line(format!("off: {} (its section of the configuration is absent)", tool.info.full_name))
    })
}

fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Faults, counted, missing_field};

    #[test]
    fn faults_stand_under_the_name_of_their_file() {
        let shown = |file: Option<&str>, lines: &[&str]| {
            Faults { file: file.map(PathBuf::from), lines: lines.iter().map(ToString::to_string).collect() }.to_string()
        };
        assert_eq!(shown(Some("c.json"), &["a: x", "b: y"]), "c.json:\n  a: x\n  b: y");
        assert_eq!(shown(None, &["a: x", "b: y"]), "a: x\nb: y");
        assert_eq!(shown(Some("c.json"), &["c.json: cannot be read"]), "c.json: cannot be read");
    }

    #[test]
    fn small_words() {
        assert_eq!((counted(1, "tool"), counted(0, "tool")), ("1 tool".into(), "0 tools".into()));
        assert_eq!(missing_field("apis.x: missing field `key`").as_deref(), Some("apis.x.key"));
        assert_eq!(missing_field("apis.x: invalid"), None);
    }
}
