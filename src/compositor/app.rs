//! The application of the session: its start, its end, and ours with it.

use std::ffi::OsString;

use smithay::reexports::calloop::{
    generic::Generic,
    timer::{TimeoutAction, Timer},
    Interest, Mode, PostAction,
};

use super::Vitrine;
use crate::{
    apps::{App, AppEnvironment, StartError},
    time::Time,
};

impl Vitrine {
    /// Starts the application on our socket; the session ends when it does, with its exit code, as with cage.
    ///
    /// # Errors
    /// When the program cannot be started; [`StartError::exit_code`] is the code to leave with.
    pub fn start_app(&mut self, command: &[OsString], socket: &str) -> Result<(), StartError> {
        let environment = AppEnvironment {
            wayland_display: socket.into(),
            control_socket: self.control_path(),
            cursor: self.config.cursor.clone(),
        };
        let app = App::start(command, &environment)?;
        let watched = app
            .pidfd()
            .try_clone_to_owned()
            .map_err(|source| StartError::Unwatched { source })?;
        let source = Generic::new(watched, Interest::READ, Mode::Level);
        let inserted = self
            .event_loop
            .insert_source(source, |_, _, state| Ok(state.app_ended()));
        if let Err(error) = inserted {
            return Err(StartError::Unwatched {
                source: std::io::Error::other(error.to_string()),
            });
        }
        self.app = Some(app);
        Ok(())
    }

    fn app_ended(&mut self) -> PostAction {
        let Some(app) = self.app.as_mut() else {
            return PostAction::Remove;
        };
        match app.reap() {
            Ok(None) => PostAction::Continue,
            Ok(Some(exit)) => {
                // Whoever was told to end is not to be looked into.
                if exit.code() != 0 && self.exit_code.is_none() {
                    self.save_history(&format!("the application ended with {exit}"));
                }
                self.quit(exit.code());
                PostAction::Remove
            }
            Err(error) => {
                tracing::error!(target: "vitrine::apps", %error, "the application cannot be watched any more");
                self.quit(1);
                PostAction::Remove
            }
        }
    }

    /// SIGINT or SIGTERM: the application is asked to end, and its end ends the session. Without one it ends at once.
    pub fn terminate(&mut self) {
        let Some(app) = self.app.as_mut() else {
            return self.quit(0);
        };
        app.stop(Time::now());
        self.exit_code.get_or_insert(0);
        self.arm_app_deadline();
    }

    fn arm_app_deadline(&mut self) {
        let Some(deadline) = self.app.as_ref().and_then(App::next_deadline) else {
            return;
        };
        let timer = Timer::from_duration(deadline.saturating_since(Time::now()));
        let inserted = self.event_loop.insert_source(timer, |_, _, state| {
            if let Some(app) = state.app.as_mut() {
                app.tick(Time::now());
            }
            state.arm_app_deadline();
            TimeoutAction::Drop
        });
        if let Err(error) = inserted {
            tracing::error!(target: "vitrine::apps", %error, "no timer for the application's end");
            self.quit(1);
        }
    }
}
