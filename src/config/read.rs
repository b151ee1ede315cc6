//! From the parsed file to [`Config`], section by section. Ranges here and the words in [`schema`] say the same; a test
//! of every bound holds them together.

use std::{collections::HashSet, path::Path, time::Duration};

use toml::de::DeTable;

use super::{
    access,
    error::ConfigError,
    reader::{
        auto_or, boolean, choice, name, number, signed, text as words, whole, Problems, Table,
        Value,
    },
    schema,
    values::{
        AccelProfile, DeviceChoice, DmabufTargets, GpuChoice, Indicator, KeyboardRepeat, LogTarget,
        ModeRule, MotionRule, PacingRule, PlaneName, ProducerChoice, RendererChoice, SinkRule,
        TransformRule,
    },
    AppSection, CaptureSection, Config, CursorSection, InputSection, KeyboardSection, LogSection,
    MetricsSection, OutputRule, PointerSection, SeatSection, TouchSection,
};

pub(super) fn config(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let problems = Problems::new(text);
    let parsed = match DeTable::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let at = error.span().unwrap_or(0..0);
            problems.add(at, format!("not valid TOML: {}", error.message()));
            return Err(ConfigError::Invalid {
                file: file.to_owned(),
                problems: problems.into_sorted(),
            });
        }
    };
    let config = top(
        &Table::new(schema::TOP, Some(parsed.get_ref()), &problems),
        &problems,
    );
    let problems = problems.into_sorted();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Invalid {
            file: file.to_owned(),
            problems,
        })
    }
}

fn top(table: &Table<'_>, problems: &Problems<'_>) -> Config {
    Config {
        drm_device: table.get("drm_device", device).unwrap_or_default(),
        renderer: table
            .get("renderer", |value| {
                choice(
                    value,
                    &[
                        ("auto", RendererChoice::Auto),
                        ("pixman", RendererChoice::Pixman),
                        ("gles", RendererChoice::Gles),
                    ],
                )
            })
            .unwrap_or_default(),
        nice: table
            .get("nice", |value| signed(value, -20..=0))
            .and_then(|nice| i32::try_from(nice).ok())
            .unwrap_or(Config::default().nice),
        capture: capture(&table.table("capture", schema::CAPTURE)),
        access: access::read(&table.table("access", schema::ACCESS), problems),
        outputs: outputs(table, problems),
        input: input(&table.table("input", schema::INPUT)),
        cursor: cursor(&table.table("cursor", schema::CURSOR)),
        seat: seat(&table.table("seat", schema::SEAT)),
        log: log(&table.table("log", schema::LOG)),
        app: app(&table.table("app", schema::APP)),
        metrics: metrics(&table.table("metrics", schema::METRICS)),
    }
}

fn device(value: &Value<'_>) -> Option<DeviceChoice> {
    match name(value)?.as_str() {
        "auto" => Some(DeviceChoice::Auto),
        path if path.starts_with('/') => Some(DeviceChoice::Path(path.into())),
        _ => None,
    }
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(u64::from(count))
}

const PRODUCERS: &[(&str, ProducerChoice)] = &[
    ("auto", ProducerChoice::Auto),
    ("writeback", ProducerChoice::Writeback),
    ("render", ProducerChoice::Render),
];

fn output_producer(value: &Value<'_>) -> Option<Option<ProducerChoice>> {
    if value.get_ref().as_str() == Some("default") {
        return Some(None);
    }
    choice(value, PRODUCERS).map(Some)
}

fn capture(table: &Table<'_>) -> CaptureSection {
    let default = CaptureSection::default();
    let count = |value: &Value<'_>, range| whole(value, range).map(|n| n as usize);
    let section = CaptureSection {
        ring_slots: table
            .get("ring_slots", |v| count(v, 3..=8))
            .unwrap_or(default.ring_slots),
        quota: table
            .get("quota", |v| count(v, 1..=3))
            .unwrap_or(default.quota),
        hold_deadline: table
            .get("hold_deadline_ms", |v| whole(v, 50..=60_000))
            .map_or(default.hold_deadline, milliseconds),
        grace_refreshes: table
            .get("grace_refreshes", |v| whole(v, 0..=60))
            .unwrap_or(default.grace_refreshes),
        cooling: table
            .get("cooling_ms", |v| number(v, 0.0..=100.0))
            .map_or(default.cooling, |count| {
                Duration::from_secs_f64(count / 1000.0)
            }),
        producer: table
            .get("producer", |v| choice(v, PRODUCERS))
            .unwrap_or_default(),
        dmabuf: table
            .get("dmabuf", |v| {
                choice(
                    v,
                    &[
                        ("auto", DmabufTargets::Auto),
                        ("on", DmabufTargets::On),
                        ("off", DmabufTargets::Off),
                    ],
                )
            })
            .unwrap_or_default(),
        gpu_copies: table
            .get("gpu_copies", |v| {
                choice(
                    v,
                    &[
                        ("auto", GpuChoice::Auto),
                        ("on", GpuChoice::On),
                        ("off", GpuChoice::Off),
                    ],
                )
            })
            .unwrap_or_default(),
        passthrough: table
            .get("passthrough", boolean)
            .unwrap_or(default.passthrough),
        lease_primary: table
            .get("lease_primary", boolean)
            .unwrap_or(default.lease_primary),
        pacing: table.get("pacing", pacing).unwrap_or_default(),
        every_nth: table
            .get("every_nth", |v| whole(v, 2..=60))
            .unwrap_or(default.every_nth),
        pipelined_unlisted: table
            .get("pipelined_unlisted", boolean)
            .unwrap_or(default.pipelined_unlisted),
        hold_refreshes: table
            .get("hold_refreshes", |v| whole(v, 1..=8))
            .unwrap_or(default.hold_refreshes),
        watchdog: table
            .get("watchdog_ms", |v| whole(v, 250..=60_000))
            .map_or(default.watchdog, milliseconds),
        motion: table.get("motion", motion).unwrap_or_default(),
        history: table
            .get("history", |v| count(v, 0..=16))
            .unwrap_or(default.history),
        history_dir: table
            .get("history_dir", |v| {
                auto_or(v, |v| {
                    let path = std::path::PathBuf::from(name(v)?);
                    path.is_absolute().then_some(path)
                })
            })
            .flatten(),
        indicator: table
            .get("indicator", |v| {
                choice(v, &[("off", Indicator::Off), ("mark", Indicator::Mark)])
            })
            .unwrap_or_default(),
    };
    if section.quota >= section.ring_slots {
        table.reject(
            "quota",
            format!(
                "\"quota\" in [capture] is {} but \"ring_slots\" is {}; one slot must stay for the next frame: \
                 raise ring_slots or lower quota",
                section.quota, section.ring_slots
            ),
        );
    }
    section
}

fn outputs(top: &Table<'_>, problems: &Problems<'_>) -> Vec<OutputRule> {
    let mut seen = HashSet::new();
    let mut rules = Vec::new();
    for (table, span) in top.tables("output", schema::OUTPUT) {
        let Some(rule) = output(&table) else {
            if !table.has("connector") {
                problems.add(
                    span,
                    "[[output]] has no \"connector\"; write connector = \"HDMI-A-1\" or another name that \
                     `vitrine probe` lists"
                        .to_owned(),
                );
            }
            continue;
        };
        if !seen.insert(rule.connector.clone()) {
            table.reject(
                "connector",
                format!(
                    "a second [[output]] for connector \"{}\": only the first would apply; join them",
                    rule.connector
                ),
            );
        }
        rules.push(rule);
    }
    rules
}

fn output(table: &Table<'_>) -> Option<OutputRule> {
    let default = OutputRule::default();
    let connector = table.get("connector", name);
    let rule = OutputRule {
        connector: connector.clone().unwrap_or_default(),
        enabled: table.get("enabled", boolean).unwrap_or(default.enabled),
        mode: table
            .get("mode", |v| v.get_ref().as_str().and_then(ModeRule::parse))
            .unwrap_or_default(),
        scale: table
            .get("scale", |v| number(v, 0.5..=8.0))
            .unwrap_or(default.scale),
        transform: table.get("transform", transform).unwrap_or_default(),
        position: table.get("position", |v| auto_or(v, position)).flatten(),
        producer: table.get("producer", output_producer).flatten(),
        passthrough: table.get("passthrough", |v| auto_or(v, boolean)).flatten(),
        lease_primary: table
            .get("lease_primary", |v| auto_or(v, boolean))
            .flatten(),
        motion: table.get("motion", |v| auto_or(v, motion)).flatten(),
        pacing: table.get("pacing", |v| auto_or(v, pacing)).flatten(),
        foreign_planes: table
            .get("foreign_planes", foreign_planes)
            .unwrap_or_default(),
        lease_socket: table.get("lease_socket", file_name).unwrap_or_default(),
        sink: table.get("sink", sink).unwrap_or_default(),
    };
    if !rule.lease_socket.is_empty() && rule.connector.contains('*') {
        table.reject(
            "lease_socket",
            format!(
                "\"lease_socket\" in an [[output]] for \"{}\": one socket is for one output; write the \
                 connector's whole name",
                rule.connector
            ),
        );
    }
    connector.map(|_| rule)
}

fn pacing(value: &Value<'_>) -> Option<PacingRule> {
    choice(
        value,
        &[
            ("safe", PacingRule::Safe),
            ("every_nth", PacingRule::EveryNth),
            ("pipelined", PacingRule::Pipelined),
        ],
    )
}

fn motion(value: &Value<'_>) -> Option<MotionRule> {
    choice(
        value,
        &[("damage", MotionRule::Damage), ("full", MotionRule::Full)],
    )
}

fn sink(value: &Value<'_>) -> Option<SinkRule> {
    choice(
        value,
        &[
            ("display", SinkRule::Display),
            ("writeback", SinkRule::Writeback),
        ],
    )
}

fn foreign_planes(value: &Value<'_>) -> Option<Vec<PlaneName>> {
    let list = value.get_ref().as_array()?;
    let plane = |value: &Value<'_>| match value.get_ref().as_str() {
        Some(text) => PlaneName::parse(text),
        None => whole(value, 1..=u32::MAX).map(PlaneName::Id),
    };
    let planes: Option<Vec<PlaneName>> = list.iter().map(plane).collect();
    planes.filter(|planes| planes.len() <= 32)
}

/// A name directly below a directory, or nothing.
fn file_name(value: &Value<'_>) -> Option<String> {
    words(value).filter(|name| !name.contains('/') && name != "." && name != "..")
}

fn transform(value: &Value<'_>) -> Option<TransformRule> {
    choice(
        value,
        &[
            ("normal", TransformRule::Normal),
            ("90", TransformRule::Rotated90),
            ("180", TransformRule::Rotated180),
            ("270", TransformRule::Rotated270),
            ("flipped", TransformRule::Flipped),
            ("flipped-90", TransformRule::Flipped90),
            ("flipped-180", TransformRule::Flipped180),
            ("flipped-270", TransformRule::Flipped270),
        ],
    )
}

fn position(value: &Value<'_>) -> Option<(i32, i32)> {
    let coordinate = |value: &Value<'_>| {
        signed(value, i64::from(i16::MIN)..=i64::from(i16::MAX)).and_then(|n| i32::try_from(n).ok())
    };
    let list = value.get_ref().as_array()?;
    let mut numbers = list.iter().map(coordinate);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Some(x)), Some(Some(y)), None) => Some((x, y)),
        _ => None,
    }
}

fn input(table: &Table<'_>) -> InputSection {
    let default = InputSection::default();
    InputSection {
        vt_switch: table.get("vt_switch", boolean).unwrap_or(default.vt_switch),
        terminate_key: table
            .get("terminate_key", boolean)
            .unwrap_or(default.terminate_key),
        keyboard: keyboard(&table.table("keyboard", schema::KEYBOARD)),
        pointer: pointer(&table.table("pointer", schema::POINTER)),
        touch: touch(&table.table("touch", schema::TOUCH)),
    }
}

fn keyboard(table: &Table<'_>) -> KeyboardSection {
    let default = KeyboardRepeat::default();
    let names = |key| table.get(key, words).unwrap_or_default();
    KeyboardSection {
        rules: names("rules"),
        model: names("model"),
        layout: names("layout"),
        variant: names("variant"),
        options: names("options"),
        repeat: KeyboardRepeat {
            rate: table
                .get("repeat_rate", |v| whole(v, 0..=200))
                .unwrap_or(default.rate),
            delay_ms: table
                .get("repeat_delay", |v| whole(v, 50..=10_000))
                .unwrap_or(default.delay_ms),
        },
    }
}

fn pointer(table: &Table<'_>) -> PointerSection {
    let flag = |key| table.get(key, |v| auto_or(v, boolean)).flatten();
    let profiles = &[
        ("flat", AccelProfile::Flat),
        ("adaptive", AccelProfile::Adaptive),
    ];
    PointerSection {
        accel_profile: table
            .get("accel_profile", |v| auto_or(v, |v| choice(v, profiles)))
            .flatten(),
        accel_speed: table
            .get("accel_speed", |v| auto_or(v, |v| number(v, -1.0..=1.0)))
            .flatten(),
        natural_scroll: flag("natural_scroll"),
        left_handed: flag("left_handed"),
        tap: flag("tap"),
    }
}

fn touch(table: &Table<'_>) -> TouchSection {
    TouchSection {
        output: table.get("output", |v| auto_or(v, name)).flatten(),
        calibration: table.get("calibration", |v| auto_or(v, matrix)).flatten(),
    }
}

fn matrix(value: &Value<'_>) -> Option<[f32; 6]> {
    let numbers: Option<Vec<f32>> = value
        .get_ref()
        .as_array()?
        .iter()
        .map(|value| number(value, -1e6..=1e6).map(|number| number as f32))
        .collect();
    numbers?.try_into().ok()
}

fn cursor(table: &Table<'_>) -> CursorSection {
    let default = CursorSection::default();
    CursorSection {
        theme: table.get("theme", name).unwrap_or(default.theme),
        size: table
            .get("size", |v| whole(v, 1..=512))
            .unwrap_or(default.size),
        hardware: table.get("hardware", boolean).unwrap_or(default.hardware),
    }
}

fn seat(table: &Table<'_>) -> SeatSection {
    SeatSection {
        name: table
            .get("name", name)
            .unwrap_or(SeatSection::default().name),
    }
}

fn log(table: &Table<'_>) -> LogSection {
    let default = LogSection::default();
    LogSection {
        target: table
            .get("target", |v| {
                choice(
                    v,
                    &[
                        ("auto", LogTarget::Auto),
                        ("stderr", LogTarget::Stderr),
                        ("journald", LogTarget::Journald),
                    ],
                )
            })
            .unwrap_or_default(),
        filter: table
            .get("filter", |v| {
                name(v).filter(|text| super::values::filter_is_valid(text))
            })
            .unwrap_or(default.filter),
    }
}

fn app(table: &Table<'_>) -> AppSection {
    let command = table.get("command", |value| {
        let list: Vec<String> = value
            .get_ref()
            .as_array()?
            .iter()
            // Arguments may hold line ends, but never a NUL: no program could be given one.
            .map(|item| {
                item.get_ref()
                    .as_str()
                    .filter(|s| !s.contains('\0'))
                    .map(str::to_owned)
            })
            .collect::<Option<_>>()?;
        (list.first().is_none_or(|program| !program.is_empty())).then_some(list)
    });
    AppSection {
        command: command.unwrap_or_default(),
    }
}

fn metrics(table: &Table<'_>) -> MetricsSection {
    let default = MetricsSection::default();
    MetricsSection {
        file: table
            .get("file", |value| match name(value)?.as_str() {
                "off" => Some(None),
                path if path.starts_with('/') && path.ends_with(".prom") => Some(Some(path.into())),
                _ => None,
            })
            .flatten(),
        interval: table
            .get("interval_s", |v| whole(v, 1..=3600))
            .map_or(default.interval, |count| {
                Duration::from_secs(u64::from(count))
            }),
    }
}
