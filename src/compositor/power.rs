//! Outputs that are switched off and on, by clients with the right to it or by the control socket, and who is told.

use smithay::{output::Output, reexports::wayland_server::Client};

use super::{ClientState, Vitrine};
use crate::{
    output::{PowerMode, PowerNews},
    policy::Privilege,
    protocols::{
        self,
        wlr_output_power::{self, OutputPowerHandler, OutputPowers},
    },
};

impl OutputPowerHandler for Vitrine {
    fn output_powers(&mut self) -> &mut OutputPowers {
        &mut self.output_powers
    }

    fn may_switch_outputs(&self, client: &Client) -> bool {
        let data = client.get_data::<ClientState>();
        data.is_some_and(|data| data.right(Privilege::OutputPower).is_there())
    }

    fn is_output_on(&mut self, output: &Output) -> Option<bool> {
        let screen = self.backend.as_mut()?.screen(output)?;
        Some(screen.power().mode == PowerMode::On)
    }

    fn switch_output(&mut self, client: &Client, output: &Output, on: bool) -> Result<(), String> {
        let news = self.set_power(output, PowerMode::of(on))?;
        if let Some(data) = client.get_data::<ClientState>().filter(|_| news) {
            protocols::audit_output_power(&data.peer, &output.name(), on);
        }
        Ok(())
    }
}

impl Vitrine {
    /// Switches an output; gives whether that was not wanted already.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn set_power(&mut self, output: &Output, mode: PowerMode) -> Result<bool, String> {
        if mode == PowerMode::Off && self.is_leased(output) {
            return Err(
                "planes of this output are leased to another process; it has to end that first"
                    .to_owned(),
            );
        }
        let backend = self.backend.as_mut().ok_or("there is no display device")?;
        let screen = backend.screen(output).ok_or("the output is gone")?;
        let news = screen.power().wanted != mode;
        screen.set_power(mode)?;
        Ok(news)
    }

    /// The same for the control socket.
    pub(super) fn set_power_by_name(&mut self, name: &str, mode: PowerMode) -> Result<(), String> {
        let mut outputs: Vec<Output> = self.captures.keys().cloned().collect();
        outputs.sort_by_key(Output::name);
        let Some(output) = outputs.iter().find(|output| output.name() == name) else {
            let names: Vec<String> = outputs.iter().map(Output::name).collect();
            return Err(match names.is_empty() {
                true => format!("there is no output {name:?}; there is none at all"),
                false => format!(
                    "there is no output {name:?}; there are {}",
                    names.join(", ")
                ),
            });
        };
        if self.set_power(&output.clone(), mode)? {
            tracing::info!(target: "vitrine::ipc", output = name, power = mode.name(), "asked by the control socket");
        }
        Ok(())
    }

    /// After the screens did what was due: says what became of their power.
    pub(super) fn tell_power(&mut self) {
        let screens = self.backend.iter_mut().flat_map(|b| &mut b.screens);
        let news: Vec<(Output, PowerNews)> = screens
            .filter_map(|screen| {
                let news = screen.power_news()?;
                Some((screen.output.clone(), news))
            })
            .collect();
        for (output, news) in news {
            match news {
                PowerNews::Is(mode) => {
                    wlr_output_power::power_changed(self, &output, mode == PowerMode::On);
                }
                PowerNews::Refused => wlr_output_power::power_refused(self, &output),
            }
        }
    }
}

crate::delegate_output_powers!(Vitrine);
