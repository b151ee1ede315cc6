//! Every key of compositor.toml with what is valid for it. The reader refuses what is not here, its error messages quote
//! it, and tests hold compositor.toml and docs/configuration.md against it.

/// A key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The word left of the `=`.
    pub name: &'static str,
    /// What may stand right of it; completes the sentence "valid: …".
    pub valid: &'static str,
}

/// A table and its keys.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// The header as it is written in the file; empty for the top of the file.
    pub header: &'static str,
    /// Its plain keys.
    pub keys: &'static [Key],
    /// Names of the tables directly below it.
    pub tables: &'static [&'static str],
}

impl Section {
    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Keys, then tables: all that may stand in the table.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys
            .iter()
            .map(|key| key.name)
            .chain(self.tables.iter().copied())
    }

    /// The section in words, for messages.
    pub fn place(&self) -> &'static str {
        if self.header.is_empty() {
            "the top level"
        } else {
            self.header
        }
    }
}

const fn key(name: &'static str, valid: &'static str) -> Key {
    Key { name, valid }
}

const BOOLEAN: &str = "true or false";
const BOOLEAN_OR_AUTO: &str = "true, false or \"auto\"";
const SANDBOX_NAME: &str = "text that is not empty, \"*\" standing for any characters";
const PACING: &str = "\"safe\", \"every_nth\" or \"pipelined\"";
const PACING_OR_AUTO: &str = "\"auto\", \"safe\", \"every_nth\" or \"pipelined\"";
const MOTION: &str = "\"damage\" or \"full\"";
const MOTION_OR_AUTO: &str = "\"auto\", \"damage\" or \"full\"";
const XKB_NAME: &str = "text; \"\" for the system's default";

/// Above the first table header.
pub const TOP: Section = Section {
    header: "",
    keys: &[
        key(
            "drm_device",
            "\"auto\" or the absolute path of a device such as \"/dev/dri/card0\"",
        ),
        key("renderer", "\"auto\", \"pixman\" or \"gles\""),
        key("nice", "a whole number from -20 to 0"),
    ],
    tables: &[
        "capture", "access", "output", "input", "cursor", "seat", "log", "app", "metrics",
    ],
};

/// `[capture]`
pub const CAPTURE: Section = Section {
    header: "[capture]",
    keys: &[
        key("ring_slots", "a whole number from 3 to 8"),
        key("quota", "a whole number from 1 to 3, less than ring_slots"),
        key("hold_deadline_ms", "a whole number from 50 to 60000"),
        key("grace_refreshes", "a whole number from 0 to 60"),
        key(
            "cooling_ms",
            "a number from 0 to 100; fractions are allowed",
        ),
        key("producer", "\"auto\", \"writeback\" or \"render\""),
        key("dmabuf", "\"auto\", \"on\" or \"off\""),
        key("gpu_copies", "\"auto\", \"on\" or \"off\""),
        key("passthrough", BOOLEAN),
        key("lease_primary", BOOLEAN),
        key("pacing", PACING),
        key("every_nth", "a whole number from 2 to 60"),
        key("pipelined_unlisted", BOOLEAN),
        key("hold_refreshes", "a whole number from 1 to 8"),
        key("watchdog_ms", "a whole number from 250 to 60000"),
        key("motion", MOTION),
        key("history", "a whole number from 0 to 16"),
        key("history_dir", "\"auto\" or an absolute path"),
        key("indicator", "\"off\" or \"mark\""),
    ],
    tables: &[],
};

/// `[access]`
pub const ACCESS: Section = Section {
    header: "[access]",
    keys: &[
        key("default", "\"same-user\", \"allow\" or \"deny\""),
        key(
            "privileged_socket",
            "\"\" for none, or a file name such as \"wayland-privileged\"",
        ),
    ],
    tables: &["rule"],
};

/// `[[access.rule]]`
pub const ACCESS_RULE: Section = Section {
    header: "[[access.rule]]",
    keys: &[
        key("action", "\"allow\" or \"deny\"; required"),
        key(
            "globals",
            "a list of \"capture\", \"session-lock\" and \"output-power\"",
        ),
        key(
            "executable",
            "an absolute path such as \"/usr/bin/grim\", \"*\" standing for any characters",
        ),
        key("uid", "a whole number from 0 to 4294967294"),
        key("socket", "\"any\", \"public\" or \"sandbox\""),
        key("sandbox_engine", SANDBOX_NAME),
        key("app_id", SANDBOX_NAME),
        key("instance_id", SANDBOX_NAME),
    ],
    tables: &[],
};

/// `[[output]]`
pub const OUTPUT: Section = Section {
    header: "[[output]]",
    keys: &[
        key(
            "connector",
            "a connector name such as \"HDMI-A-1\", \"*\" standing for any characters; required",
        ),
        key("enabled", BOOLEAN),
        key("mode", "\"preferred\", \"WIDTHxHEIGHT\" or \"WIDTHxHEIGHT@HZ\", e.g. \"1280x720@60\""),
        key("scale", "a number from 0.5 to 8"),
        key(
            "transform",
            "\"normal\", \"90\", \"180\", \"270\", \"flipped\", \"flipped-90\", \"flipped-180\" or \"flipped-270\"",
        ),
        key("position", "\"auto\" or [x, y] with whole numbers from -32768 to 32767"),
        key("motion", MOTION_OR_AUTO),
        key("pacing", PACING_OR_AUTO),
        key(
            "foreign_planes",
            "a list of plane ids and names such as [31, \"overlay:0\"], at most 32; [] for none",
        ),
        key(
            "lease_socket",
            "a file name without slashes such as \"vitrine-lease\"; \"\" for none",
        ),
        key("sink", "\"display\" or \"writeback\""),
        key(
            "producer",
            "\"default\", \"auto\", \"writeback\" or \"render\"",
        ),
        key("passthrough", "\"auto\", true or false"),
        key("lease_primary", "\"auto\", true or false"),
    ],
    tables: &[],
};

/// `[input]`
pub const INPUT: Section = Section {
    header: "[input]",
    keys: &[key("vt_switch", BOOLEAN), key("terminate_key", BOOLEAN)],
    tables: &["keyboard", "pointer", "touch"],
};

/// `[input.keyboard]`
pub const KEYBOARD: Section = Section {
    header: "[input.keyboard]",
    keys: &[
        key("rules", XKB_NAME),
        key("model", XKB_NAME),
        key("layout", XKB_NAME),
        key("variant", XKB_NAME),
        key("options", XKB_NAME),
        key(
            "repeat_rate",
            "a whole number from 0 to 200 (0: keys do not repeat)",
        ),
        key("repeat_delay", "a whole number from 50 to 10000"),
    ],
    tables: &[],
};

/// `[input.pointer]`
pub const POINTER: Section = Section {
    header: "[input.pointer]",
    keys: &[
        key("accel_profile", "\"auto\", \"flat\" or \"adaptive\""),
        key("accel_speed", "\"auto\" or a number from -1 to 1"),
        key("natural_scroll", BOOLEAN_OR_AUTO),
        key("left_handed", BOOLEAN_OR_AUTO),
        key("tap", BOOLEAN_OR_AUTO),
    ],
    tables: &[],
};

/// `[input.touch]`
pub const TOUCH: Section = Section {
    header: "[input.touch]",
    keys: &[
        key("output", "\"auto\" or the name of a connector"),
        key(
            "calibration",
            "\"auto\" or six numbers [a, b, c, d, e, f], the first two rows of a 3x3 matrix",
        ),
    ],
    tables: &[],
};

/// `[cursor]`
pub const CURSOR: Section = Section {
    header: "[cursor]",
    keys: &[
        key("theme", "the name of an XCursor theme"),
        key("size", "a whole number from 1 to 512"),
        key("hardware", BOOLEAN),
    ],
    tables: &[],
};

/// `[seat]`
pub const SEAT: Section = Section {
    header: "[seat]",
    keys: &[key("name", "text that is not empty")],
    tables: &[],
};

/// `[log]`
pub const LOG: Section = Section {
    header: "[log]",
    keys: &[
        key("target", "\"auto\", \"stderr\" or \"journald\""),
        key(
            "filter",
            "tracing directives such as \"info,vitrine::kms=debug\"",
        ),
    ],
    tables: &[],
};

/// `[app]`
pub const APP: Section = Section {
    header: "[app]",
    keys: &[key(
        "command",
        "a list of texts: the program, then its arguments; [] for none",
    )],
    tables: &[],
};

/// `[metrics]`
pub const METRICS: Section = Section {
    header: "[metrics]",
    keys: &[
        key("file", "\"off\" or an absolute path that ends in \".prom\""),
        key("interval_s", "a whole number from 1 to 3600"),
    ],
    tables: &[],
};

/// All sections.
pub const SECTIONS: &[Section] = &[
    TOP,
    CAPTURE,
    ACCESS,
    ACCESS_RULE,
    OUTPUT,
    INPUT,
    KEYBOARD,
    POINTER,
    TOUCH,
    CURSOR,
    SEAT,
    LOG,
    APP,
    METRICS,
];
