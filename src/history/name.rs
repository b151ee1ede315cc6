//! Names of files and folders.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// `OUTPUT-2026-11-22T21-25-33.123456Z.png`: sorts by time, and has nothing that a shell or another file system minds.
pub(super) fn of_file(output: &str, since_1970: Duration) -> String {
    let output: String = output
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let seconds = since_1970.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{output}-{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}.{:06}Z.png",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_1970.subsec_micros()
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Counted in eras of 400 years that
/// begin on a 1 March, so that the leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / ERA, days % ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Where frames go when nothing is configured: the unit's StateDirectory, root's /var/lib, a user's state home.
pub fn default_directory(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    // systemd separates several by colons; ours is the first.
    let unit = variable("STATE_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    if let Some(unit) = unit.filter(|path| path.is_absolute()) {
        return unit;
    }
    let home = if root {
        None
    } else {
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
    };
    home.unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("vitrine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_time_and_sort_by_it() {
        for (seconds, expected) in [
            (0, "DP-1-1970-01-01T00-00-00.000007Z.png"),
            (951_782_400, "DP-1-2000-02-29T00-00-00.000007Z.png"),
            (951_868_799, "DP-1-2000-02-29T23-59-59.000007Z.png"),
            (1_795_382_733, "DP-1-2026-11-22T21-25-33.000007Z.png"),
            (4_107_542_400, "DP-1-2100-03-01T00-00-00.000007Z.png"),
        ] {
            assert_eq!(of_file("DP-1", Duration::new(seconds, 7_000)), expected);
        }
        assert!(of_file("../a b", Duration::ZERO).starts_with("___a_b-1970"));
    }

    #[test]
    fn every_day_of_500_years_follows_the_one_before() {
        let mut before = date(0);
        for day in 1..500 * 366 {
            let (year, month, dom) = date(day);
            let next = dom == before.2 + 1 && (year, month) == (before.0, before.1);
            let new_month =
                dom == 1 && before.2 >= 28 && (year * 12 + month == before.0 * 12 + before.1 + 1);
            assert!(next || new_month, "{before:?} {:?}", (year, month, dom));
            before = (year, month, dom);
        }
    }

    #[test]
    fn frames_go_to_the_unit_root_or_the_user() {
        let of = |root, set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.into()))
                .collect();
            default_directory(root, move |name| {
                set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())
            })
        };
        let home = ("HOME", "/home/u");
        assert_eq!(
            of(false, &[home]),
            PathBuf::from("/home/u/.local/state/vitrine")
        );
        assert_eq!(
            of(false, &[home, ("XDG_STATE_HOME", "/s")]),
            PathBuf::from("/s/vitrine")
        );
        assert_eq!(
            of(false, &[home, ("XDG_STATE_HOME", "s")]),
            PathBuf::from("/home/u/.local/state/vitrine")
        );
        assert_eq!(of(true, &[home]), PathBuf::from("/var/lib/vitrine"));
        assert_eq!(
            of(true, &[("STATE_DIRECTORY", "/var/lib/kiosk:/x")]),
            PathBuf::from("/var/lib/kiosk")
        );
        assert_eq!(of(false, &[]), PathBuf::from("/var/lib/vitrine"));
    }
}
