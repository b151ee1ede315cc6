//! The command line. Knows only words; `main` decides what they do.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

/// What the user typed.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "vitrine",
    version,
    about = "A kiosk Wayland compositor that hands out the real screen",
    long_about = None,
    args_conflicts_with_subcommands = true,
    override_usage = "vitrine [OPTIONS] [-- APP [ARGS]...]\n       vitrine <COMMAND>",
    after_help = "Vitrine exits with the application's exit code, or 128 + N when signal N ended it."
)]
pub struct Cli {
    /// Configuration file [default: compositor.toml in $XDG_CONFIG_HOME/vitrine, then /etc/vitrine]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Name of the Wayland socket in $XDG_RUNTIME_DIR [default: the first free wayland-N]
    #[arg(short, long, value_name = "NAME", value_parser = socket_name)]
    pub socket: Option<String>,

    /// Log filter, e.g. `info,vitrine::kms=debug` [default: VITRINE_LOG, RUST_LOG, then the file's]
    #[arg(short, long, value_name = "FILTER")]
    pub log: Option<String>,

    /// Application to run and its arguments; replaces the file's `app.command`
    #[arg(last = true, value_name = "APP")]
    pub app: Vec<OsString>,

    /// Something else than running the compositor.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else vitrine can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Print what the display device can do: connectors, modes, planes, writeback
    Probe {
        /// Device node [default: every /dev/dri/card*]
        #[arg(short, long, value_name = "DEVICE")]
        device: Option<PathBuf>,
    },
    /// Show pictures, capture them through writeback and say what can be trusted; nothing else may drive the display
    #[command(
        after_help = "Exits with 0 if a screen can be captured and no writeback connector is faulty, else with 1."
    )]
    Selftest {
        /// Device node [default: every /dev/dri/card*]
        #[arg(short, long, value_name = "DEVICE")]
        device: Option<PathBuf>,
        /// Seconds per screen
        #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
    },
    /// Check a configuration file and say what is wrong
    Validate {
        /// Configuration file [default: the one that would be used]
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Ask or tell the running compositor something
    Msg {
        /// Print the answer as one line of JSON
        #[arg(short, long)]
        json: bool,
        /// Control socket [default: VITRINE_SOCKET, else the only one in $XDG_RUNTIME_DIR]
        #[arg(short, long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// What to say.
        #[command(subcommand)]
        message: Message,
    },
}

/// What the running compositor can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Message {
    /// Version and process id
    Version,
    /// Screens, their modes and counters
    Outputs,
    /// What capture did, per output and client
    Capture,
    /// The counters as OpenMetrics text
    Metrics,
    /// Switch a screen off, or on again
    Output {
        /// The connector's name, e.g. HDMI-A-1
        name: String,
        /// What it shall be
        #[arg(value_enum)]
        power: Power,
    },
    /// Log by another filter from now on, e.g. `info,vitrine::kms=debug`
    Log {
        /// tracing directives
        filter: String,
    },
    /// Write the last frames as PNG (`capture.history` in compositor.toml keeps them)
    History {
        /// Folder to write to [default: `capture.history_dir`]
        directory: Option<PathBuf>,
    },
    /// End the session
    Quit,
}

/// Whether a screen is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Power {
    /// It shows a picture
    On,
    /// It is dark
    Off,
}

/// A socket name is one path component: wl_display puts it below XDG_RUNTIME_DIR.
fn socket_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
        Err("a name without slashes is valid, e.g. wayland-1".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words.split_whitespace())
    }

    #[test]
    fn the_command_line_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_application_and_its_arguments_follow_two_dashes() {
        let cli = parse("vitrine -c a.toml -s kiosk -- foot --title x -c y").unwrap();
        assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        assert_eq!(cli.socket.as_deref(), Some("kiosk"));
        assert_eq!(cli.app, ["foot", "--title", "x", "-c", "y"]);
        assert_eq!(cli.command, None);
    }

    #[test]
    fn an_application_named_as_a_subcommand_is_an_application() {
        let cli = parse("vitrine -- probe --device x").unwrap();
        assert_eq!(cli.app, ["probe", "--device", "x"]);
        assert_eq!(cli.command, None);
    }

    #[test]
    fn nothing_at_all_is_valid() {
        let cli = parse("vitrine").unwrap();
        assert!(cli.app.is_empty() && cli.command.is_none() && cli.config.is_none());
    }

    #[test]
    fn probe_and_validate_are_subcommands() {
        assert_eq!(
            parse("vitrine probe").unwrap().command,
            Some(Command::Probe { device: None })
        );
        assert_eq!(
            parse("vitrine probe --device /dev/dri/card1")
                .unwrap()
                .command,
            Some(Command::Probe {
                device: Some("/dev/dri/card1".into())
            })
        );
        assert_eq!(
            parse("vitrine validate -c b.toml").unwrap().command,
            Some(Command::Validate {
                config: Some("b.toml".into())
            })
        );
    }

    #[test]
    fn messages_may_have_arguments() {
        let msg = |words: &str| match parse(words).unwrap().command {
            Some(Command::Msg { json, message, .. }) => (json, message),
            _ => unreachable!("{words} is a message"),
        };
        assert_eq!(msg("vitrine msg capture"), (false, Message::Capture));
        assert_eq!(msg("vitrine msg --json outputs"), (true, Message::Outputs));
        let log = Message::Log {
            filter: "debug".to_owned(),
        };
        assert_eq!(msg("vitrine msg log debug"), (false, log));
        let off = Message::Output {
            name: "HDMI-A-1".to_owned(),
            power: Power::Off,
        };
        assert_eq!(msg("vitrine msg output HDMI-A-1 off"), (false, off));
        let history = |directory| Message::History { directory };
        assert_eq!(msg("vitrine msg history"), (false, history(None)));
        assert_eq!(
            msg("vitrine msg history a"),
            (false, history(Some("a".into())))
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for words in [
            "vitrine foot",
            "vitrine --colour",
            "vitrine -s a/b",
            "vitrine -c a probe",
            "vitrine -s ..",
            "vitrine msg",
            "vitrine msg log",
            "vitrine msg output",
            "vitrine msg output HDMI-A-1",
            "vitrine msg output HDMI-A-1 dim",
            "vitrine msg capture now",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
