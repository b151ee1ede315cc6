//! The power of the outputs: the test plays the device.

use std::sync::atomic::Ordering;

use smithay::output::Output;
use vitrine::protocols::wlr_output_power::{
    output_gone, power_changed, power_refused, rights_changed, OutputPowerHandler, OutputPowers,
};
use wayland_server::Client;

use super::{
    state::{Connected, State},
    Server,
};

/// What there is to an output's power.
pub(super) struct Power {
    on: bool,
    /// What clients asked for, in order.
    asked: Vec<bool>,
    /// Every wish is refused at once.
    refuses: bool,
}

impl Default for Power {
    fn default() -> Self {
        Self {
            on: true,
            asked: Vec::new(),
            refuses: false,
        }
    }
}

impl State {
    fn power(&mut self, output: &Output) -> Option<&mut Power> {
        let mut screens = self.screens.iter_mut();
        let screen = screens.find(|screen| screen.output == *output)?;
        Some(&mut screen.power)
    }
}

impl OutputPowerHandler for State {
    fn output_powers(&mut self) -> &mut OutputPowers {
        &mut self.powers
    }

    fn may_switch_outputs(&self, client: &Client) -> bool {
        let data = client.get_data::<Connected>();
        data.is_some_and(|data| !data.denied.load(Ordering::Relaxed))
    }

    fn is_output_on(&mut self, output: &Output) -> Option<bool> {
        Some(self.power(output)?.on)
    }

    fn switch_output(&mut self, _: &Client, output: &Output, on: bool) -> Result<(), String> {
        let power = self.power(output).ok_or("gone")?;
        power.asked.push(on);
        match power.refuses {
            true => Err("no".to_owned()),
            false => Ok(()),
        }
    }
}

vitrine::delegate_output_powers!(State);

impl Server {
    /// What was asked for the nth output since the last call.
    pub fn power_asked(&mut self, nth: usize) -> Vec<bool> {
        std::mem::take(&mut self.state.screens[nth].power.asked)
    }

    /// The nth output is on, or off, now.
    pub fn set_power(&mut self, nth: usize, on: bool) {
        self.state.screens[nth].power.on = on;
        let output = self.state.screens[nth].output.clone();
        power_changed(&mut self.state, &output, on);
        self.dispatch();
    }

    /// The nth output refuses to be switched.
    pub fn refuse_power(&mut self, nth: usize) {
        self.state.screens[nth].power.refuses = true;
    }

    /// What was asked of the nth output turns out to be impossible.
    pub fn fail_power(&mut self, nth: usize) {
        let output = self.state.screens[nth].output.clone();
        power_refused(&mut self.state, &output);
        self.dispatch();
    }

    /// How many objects are valid.
    pub fn power_objects(&self) -> usize {
        self.state.powers.count()
    }

    pub(super) fn power_of_gone(&mut self, output: &Output) {
        output_gone(&mut self.state, output);
    }

    pub(super) fn power_rights_changed(&mut self) {
        rights_changed(&mut self.state);
    }
}
