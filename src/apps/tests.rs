//! Real processes where the answer is the kernel's, and the pure machine for all that depends on time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    process::Signal,
};

use super::{spawn::candidates, App, AppEnvironment, AppExit, Shutdown, StartError, PATIENCE};
use crate::{config::CursorSection, time::Time};

/// Far longer than any of these processes needs: only a hang gets there.
const HANG: Duration = Duration::from_secs(60);

fn environment() -> AppEnvironment {
    AppEnvironment {
        control_socket: Some("/run/user/7/vitrine-wayland-7.sock".into()),
        wayland_display: "wayland-test".into(),
        cursor: CursorSection::default(),
    }
}

fn shell(script: &str) -> App {
    App::start(&["sh", "-c", script], &environment()).unwrap()
}

fn wait(app: &mut App) -> AppExit {
    let timeout = Timespec::try_from(HANG).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(app.pidfd(), PollFlags::IN)];
    assert_eq!(
        poll(&mut fds, Some(&timeout)).unwrap(),
        1,
        "the process hangs"
    );
    app.reap().unwrap().unwrap()
}

/// Waits until the application has written the whole line.
fn line_of(file: &std::path::Path) -> String {
    let start = Instant::now();
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => assert!(start.elapsed() < HANG, "the process wrote nothing"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_exit_code_of_the_application_is_told() {
    let mut app = shell("exit 7");
    assert_eq!(wait(&mut app), AppExit::Code(7));
    assert_eq!(
        app.reap().unwrap(),
        Some(AppExit::Code(7)),
        "asking again gives the same"
    );
}

#[test]
fn a_signal_is_told_as_128_and_its_number() {
    let mut app = shell("kill -SEGV $$");
    let exit = wait(&mut app);
    assert_eq!(exit, AppExit::Signal(11));
    assert_eq!(exit.code(), 139);
}

#[test]
fn reap_does_not_wait_for_a_running_application() {
    let mut app = shell("exec sleep 1000");
    assert_eq!(app.reap().unwrap(), None);
}

#[test]
fn the_application_gets_our_display_and_not_our_parents() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("environment");
    let script = format!(
        "echo $WAYLAND_DISPLAY/$XDG_SESSION_TYPE/$XCURSOR_SIZE/${{DISPLAY-none}}/${{NOTIFY_SOCKET-none}} > {}",
        file.display()
    );
    let mut app = shell(&script);
    assert_eq!(wait(&mut app), AppExit::Code(0));
    assert_eq!(line_of(&file), "wayland-test/wayland/24/none/none");
}

/// What the mask is for: see `detach`.
#[test]
fn the_application_starts_with_no_signal_blocked_and_leads_its_own_session() {
    let mut blocked = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: plain libc calls on a set of our own; only this test's thread is changed.
    unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        assert_eq!(
            libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), std::ptr::null_mut()),
            0
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("status");
    let script = format!(
        "grep SigBlk /proc/self/status | tr '\\n' ' ' > {0}; cut -d' ' -f6 /proc/$$/stat >> {0}",
        file.display()
    );
    let mut app = shell(&script);
    assert_eq!(wait(&mut app), AppExit::Code(0));
    let words = line_of(&file);
    let words: Vec<&str> = words.split_whitespace().collect();
    assert_eq!(
        words,
        ["SigBlk:", "0000000000000000", &app.pid().to_string()]
    );
}

#[test]
fn stop_ends_an_application_that_listens() {
    let mut app = shell("exec sleep 1000");
    app.stop(Time::now());
    assert_eq!(wait(&mut app), AppExit::Signal(15));
    assert_eq!(app.next_deadline(), None);
}

#[test]
fn an_application_that_ignores_sigterm_is_killed_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ready");
    let mut app = shell(&format!(
        "trap '' TERM; echo x > {}; while :; do sleep 1; done",
        file.display()
    ));
    line_of(&file);
    let now = Time::now();
    app.stop(now);
    assert_eq!(app.next_deadline(), Some(now + PATIENCE));
    app.tick(now + PATIENCE);
    assert_eq!(wait(&mut app), AppExit::Signal(9));
}

#[test]
fn dropping_an_application_kills_its_grandchildren_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let mut app = shell(&format!(
        "sleep 1000 > /dev/null 2>&1 & echo $! > {}; exit 0",
        file.display()
    ));
    assert_eq!(wait(&mut app), AppExit::Code(0));
    let grandchild = PathBuf::from("/proc").join(line_of(&file));
    assert!(is_alive(&grandchild), "it outlives its parent");
    drop(app);
    let start = Instant::now();
    while is_alive(&grandchild) {
        assert!(start.elapsed() < HANG, "the grandchild was not killed");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Not gone and not a zombie (who reaps it depends on the machine).
fn is_alive(process: &std::path::Path) -> bool {
    fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_missing_program_is_reported_with_what_was_tried() {
    let error = App::start(&["vitrine-no-such-program"], &environment()).unwrap_err();
    assert_eq!(error.exit_code(), 127);
    let StartError::NotFound { tried, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(!tried.is_empty() && tried.iter().all(|p| p.ends_with("vitrine-no-such-program")));
    let text = error.to_string();
    assert!(
        tried
            .iter()
            .all(|path| text.contains(&path.display().to_string())),
        "{text}"
    );
}

#[test]
fn a_file_that_is_no_program_is_reported_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("picture");
    fs::write(&file, "x").unwrap();
    let error = App::start(&[&file], &environment()).unwrap_err();
    assert_eq!(error.exit_code(), 126);
    assert!(
        error.to_string().contains(&file.display().to_string()),
        "{error}"
    );
}

#[test]
fn an_empty_command_is_an_error_and_not_a_crash() {
    let nothing: [&str; 0] = [];
    assert_eq!(
        App::start(&nothing, &environment())
            .unwrap_err()
            .exit_code(),
        127
    );
    assert_eq!(
        App::start(&[""], &environment()).unwrap_err().exit_code(),
        127
    );
    let nul = App::start(&["a\0b"], &environment());
    assert!(nul.is_err());
}

#[test]
fn a_path_is_not_searched_and_a_name_is() {
    let search = Some(OsStr::new("/a:/b"));
    assert_eq!(
        candidates(OsStr::new("./x"), search),
        [PathBuf::from("./x")]
    );
    assert_eq!(
        candidates(OsStr::new("x"), search),
        [PathBuf::from("/a/x"), PathBuf::from("/b/x")]
    );
    assert!(candidates(OsStr::new("x"), None).is_empty());
}

#[test]
fn shutdown_asks_once_and_kills_at_the_deadline_or_when_asked_again() {
    let at = |seconds| Time::from_duration(Duration::from_secs(seconds));
    let mut polite = Shutdown::default();
    assert_eq!(polite.tick(at(100)), None);
    assert_eq!(polite.request(at(100)), Some(Signal::TERM));
    assert_eq!(polite.next_deadline(), Some(at(100) + PATIENCE));
    assert_eq!(polite.tick(at(101)), None);
    assert_eq!(polite.tick(at(100) + PATIENCE), Some(Signal::KILL));
    assert_eq!(polite.tick(at(200)), None);
    assert_eq!(polite.request(at(200)), None);

    let mut impatient = Shutdown::default();
    impatient.request(at(1));
    assert_eq!(impatient.request(at(1)), Some(Signal::KILL));
    assert_eq!(impatient.next_deadline(), None);

    let mut gone = Shutdown::default();
    gone.request(at(1));
    gone.exited();
    assert_eq!(gone.tick(at(1) + PATIENCE), None);
    assert_eq!(gone.request(at(1)), None);
}
