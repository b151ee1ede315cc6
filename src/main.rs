//! The `vitrine` program: command line, logging, exit code. Everything else is in the library.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use vitrine::{
    cli::{Cli, Command, Message, Power},
    config::Config,
    ipc::{
        message,
        wire::{PowerWord, Request},
    },
    run,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Probe { device }) => run::probe(device.as_deref()).map(|()| 0),
        Some(Command::Selftest { device, seconds }) => {
            let time = std::time::Duration::from_secs(u64::from(*seconds));
            run::selftest(device.as_deref(), time)
        }
        Some(Command::Validate { config }) => validate(config.as_deref()),
        Some(Command::Msg {
            json,
            socket,
            message,
        }) => msg(*json, socket.as_deref(), message),
        None => run(&cli),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vitrine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn validate(file: Option<&std::path::Path>) -> anyhow::Result<u8> {
    let (_, found) = Config::find(file)?;
    match found {
        Some(file) => println!("{}: valid", file.display()),
        None => println!("no configuration file; the defaults are used"),
    }
    Ok(0)
}

fn msg(json: bool, socket: Option<&std::path::Path>, said: &Message) -> anyhow::Result<u8> {
    let request = match said {
        Message::Version => Request::Version,
        Message::Outputs => Request::Outputs,
        Message::Capture => Request::Capture,
        Message::Metrics => Request::Metrics,
        Message::Output { name, power } => Request::Output {
            name: name.clone(),
            power: match power {
                Power::On => PowerWord::On,
                Power::Off => PowerWord::Off,
            },
        },
        Message::Log { filter } => Request::Log {
            filter: filter.clone(),
        },
        Message::History { directory } => Request::History {
            // The compositor has another working directory.
            directory: directory.as_deref().map(std::path::absolute).transpose()?,
        },
        Message::Quit => Request::Quit,
    };
    let mut out = std::io::stdout().lock();
    out.write_all(message(socket, request, json)?.as_bytes())?;
    Ok(0)
}

fn run(cli: &Cli) -> anyhow::Result<u8> {
    let (config, file) = Config::find(cli.config.as_deref())?;
    vitrine::logging::start(&config.log, cli.log.as_deref())?;
    if let Some(file) = file {
        tracing::info!(target: "vitrine", file = %file.display(), "configuration read");
    }
    run::run(
        config,
        cli.config.as_deref(),
        cli.socket.as_deref(),
        &cli.app,
    )
}
