//! Variables and the configuration file, as layers below the flags.
//!
//! A value of a lower layer is put in front of the user's own flags as if it had been typed, unless the user typed that
//! flag (or one that excludes it). So all layers share clap's parsing, and this file knows no flag by name but
//! `--config`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};

use super::args::{Cli, Command};
use super::clap_errors;
use super::origins::Origins;
use super::stop::Stop;

pub(super) fn parse(mut argv: Vec<OsString>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Command, Stop> {
    let cli = command();
    let mut origins = Origins::new();
    // The first pass ignores errors: it finds the subcommand and its flags. The second pass reports what is wrong.
    let first_pass = cli.clone().ignore_errors(true).try_get_matches_from(&argv);
    if let Ok(matches) = &first_pass
        && let Some((name, typed)) = matches.subcommand()
        && let Some(subcommand) = cli.find_subcommand(name)
    {
        let file = read_file(name, subcommand, typed, variable).map_err(Stop::Refuse)?;
        let lower = LowerLayers {
            subcommand,
            typed,
            variable,
            file: &file,
        };
        let flags = lower.flags(&mut origins).map_err(Stop::Refuse)?;
        if let Some(at) = argv.iter().position(|word| word.to_str() == Some(name)) {
            argv.splice(at + 1..at + 1, flags);
        }
    }
    let matches = cli
        .try_get_matches_from(argv)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    match matches {
        Ok(cli) => Ok(cli.command),
        Err(error) if !error.use_stderr() => Err(Stop::Show(render(&error))),
        Err(error) => Err(Stop::Refuse(clap_errors::describe(&error, &origins))),
    }
}

/// Help or version, with colours for a terminal.
fn render(error: &clap::Error) -> String {
    let text = error.render();
    match std::io::stdout().is_terminal() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    }
}

/// The command line, with the name of its variable in the help of each flag.
pub(super) fn command() -> clap::Command {
    Cli::command().mut_subcommands(|subcommand| {
        let name = subcommand.get_name().to_string();
        if subcommand.is_hide_set() {
            return subcommand;
        }
        subcommand.mut_args(|arg| match variable_name(&name, &arg) {
            Some(variable) => {
                // So that `--slots -1` is a wrong value of a flag, not an unknown flag.
                let takes_values = arg.get_action().takes_values();
                let arg = arg.allow_negative_numbers(takes_values);
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let help = format!("{} [env: {variable}]", help.trim_end_matches('.'));
                arg.help(help).long_help(None::<&str>)
            }
            None => arg,
        })
    })
}

/// `SQUADRON_SLOTS` for `serve --slots`, `SQUADRON_WORKER_SLOTS` for `worker --slots`.
pub(super) fn variable_name(subcommand: &str, arg: &Arg) -> Option<String> {
    let flag = arg.get_long().filter(|flag| *flag != "help" && *flag != "version")?;
    let prefix = match subcommand {
        "serve" => "SQUADRON".to_string(),
        other => format!("SQUADRON_{}", other.to_uppercase().replace('-', "_")),
    };
    Some(format!("{prefix}_{}", flag.to_uppercase().replace('-', "_")))
}

/// The key of the configuration file.
pub(super) fn key_name(arg: &Arg) -> Option<String> {
    arg.get_long().map(|flag| flag.replace('-', "_"))
}

/// The layers below the flags that were typed.
struct LowerLayers<'a> {
    subcommand: &'a clap::Command,
    typed: &'a ArgMatches,
    variable: &'a dyn Fn(&str) -> Option<String>,
    file: &'a FileTable,
}

impl LowerLayers<'_> {
    /// The flags that were not typed but that a variable or the file gives.
    fn flags(&self, origins: &mut Origins) -> Result<Vec<OsString>, String> {
        let mut flags = Vec::new();
        for arg in self.subcommand.get_arguments() {
            let (Some(flag), Some(key)) = (arg.get_long(), key_name(arg)) else {
                continue;
            };
            if flag == "config" || self.is_settled(arg) {
                continue;
            }
            let variable = variable_name(self.subcommand.get_name(), arg)
                .and_then(|name| Some((name.clone(), read_variable(self.variable, &name)?)));
            let (values, origin) = match (variable, self.file.values.get(&key)) {
                (Some((name, value)), _) => (split_values(arg, &value), name),
                (None, Some(values)) => (values.clone(), format!("{key} in {}", self.file.path.display())),
                (None, None) => continue,
            };
            for value in values {
                if matches!(arg.get_action(), ArgAction::SetTrue) {
                    match parse_boolean(&value) {
                        Some(true) => flags.push(format!("--{flag}").into()),
                        Some(false) => {}
                        None => {
                            return Err(format!(
                                "{origin}: {value} is neither true nor false; write one of them"
                            ));
                        }
                    }
                } else {
                    flags.push(format!("--{flag}={value}").into());
                }
            }
            origins.insert(flag.to_string(), origin);
        }
        Ok(flags)
    }

    /// Whether `arg`, or a flag that excludes it, was typed.
    fn is_settled(&self, arg: &Arg) -> bool {
        let typed = |arg: &Arg| self.typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let excluded_by = |other: &&Arg| {
            self.subcommand
                .get_arg_conflicts_with(other)
                .iter()
                .any(|excluded| excluded.get_id() == arg.get_id())
        };
        typed(arg)
            || self.subcommand.get_arg_conflicts_with(arg).into_iter().any(typed)
            || self.subcommand.get_arguments().filter(excluded_by).any(typed)
    }
}

/// The value of a variable; none if it is empty, since compose files set unused variables to nothing.
fn read_variable(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).filter(|value| !value.is_empty())
}

fn split_values(arg: &Arg, value: &str) -> Vec<String> {
    match arg.get_action() {
        ArgAction::Append => value.split(',').map(|part| part.trim().to_string()).collect(),
        _ => vec![value.to_string()],
    }
}

fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// One subcommand's table of the configuration file.
#[derive(Default)]
struct FileTable {
    path: PathBuf,
    values: BTreeMap<String, Vec<String>>,
}

fn read_file(
    name: &str,
    subcommand: &clap::Command,
    typed: &ArgMatches,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<FileTable, String> {
    let Some(arg) = subcommand.get_arguments().find(|arg| arg.get_long() == Some("config")) else {
        return Ok(FileTable::default());
    };
    let typed_path = typed.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let (path, origin) = match (typed_path, variable_name(name, arg)) {
        (Some(path), _) => (path, "--config".to_string()),
        (None, Some(variable_name)) => match read_variable(variable, &variable_name) {
            Some(path) => (PathBuf::from(path), variable_name),
            None => return Ok(FileTable::default()),
        },
        (None, None) => return Ok(FileTable::default()),
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!(
            "{origin} {} cannot be read ({error}); name a readable TOML file",
            path.display()
        )
    })?;
    let values =
        parse_table(&text, name, subcommand).map_err(|reason| format!("{origin} {}: {reason}", path.display()))?;
    Ok(FileTable { path, values })
}

/// The values of table `[name]`; `Err` is the second half of the message, after the file's name.
fn parse_table(text: &str, name: &str, subcommand: &clap::Command) -> Result<BTreeMap<String, Vec<String>>, String> {
    let root: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!(
            "line {line} is not TOML ({}); correct it",
            error.message().replace('\n', " ")
        )
    })?;
    let tables = ["serve", "worker", "sql"];
    if let Some(unknown) = root.keys().find(|key| !tables.contains(&key.as_str())) {
        return Err(format!(
            "{unknown} is not a table of Squadron; put keys under [serve], [worker] or [sql]"
        ));
    }
    let table = match root.get(name) {
        None => return Ok(BTreeMap::new()),
        Some(toml::Value::Table(table)) => table,
        Some(_) => {
            return Err(format!("{name} is not a table; write [{name}] and put keys below"));
        }
    };
    let mut keys: Vec<String> = subcommand.get_arguments().filter_map(key_name).collect();
    keys.retain(|key| !["config", "help", "version"].contains(&key.as_str()));
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !keys.contains(key) {
            return Err(match clap_errors::nearest(key, keys.iter().map(String::as_str)) {
                Some(near) => format!("[{name}] has no key {key}; did you mean {near}?"),
                None => format!("[{name}] has no key {key}; `squadron {name} --help` lists the flags"),
            });
        }
        let texts = to_texts(value).ok_or_else(|| {
            format!("{key} in [{name}] is neither text, number, boolean nor a list of them; write one")
        })?;
        values.insert(key.clone(), texts);
    }
    Ok(values)
}

fn to_texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(boolean) => Some(vec![boolean.to_string()]),
        toml::Value::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(to_texts).collect();
            texts.map(|texts| texts.concat())
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Squadron's part of the user's cache folder.
pub(super) fn cache_dir(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let folder = |name: &str, below: &str| {
        read_variable(variable, name).map(|value| Path::new(&value).join(below).join("squadron"))
    };
    let home = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    folder("XDG_CACHE_HOME", "")
        .or_else(|| folder("LOCALAPPDATA", ""))
        .or_else(|| folder("HOME", home))
        .unwrap_or_else(|| std::env::temp_dir().join("squadron"))
}
