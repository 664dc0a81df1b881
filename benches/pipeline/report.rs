//! The figures, as a table for people and as JSON with every run.

use std::fmt;

use serde::Serialize;

use crate::args::Args;
use crate::peer::Peer;

/// Index of a table in [`Report::tables`].
pub const THROUGHPUT: usize = 0;
pub const LATENCY: usize = 1;
pub const START: usize = 2;
pub const SCALED: usize = 3;
pub const CLAIMS: usize = 4;
pub const MANY: usize = 5;

/// The row of the ceiling for all that post.
pub const BARE_POST: &str = "bare: consume, post, ack";

/// The figure of a column that a row has none for; JSON has it as null.
pub const NOT_MEASURED: f64 = f64::NAN;

/// All that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    cores: usize,
    processor: String,
    events: u32,
    rooms: u32,
    log_level: String,
    binary_mib: f64,
    tables: Vec<Table>,
    /// What the tables don't say of their rows, or of rows that are not there.
    remarks: Vec<String>,
    plans: Vec<Plan>,
}

/// How PostgreSQL runs a statement.
#[derive(Debug, Clone, Serialize)]
struct Plan {
    name: String,
    plan: String,
}

#[derive(Debug, Clone, Serialize)]
struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Serialize)]
struct Column {
    name: &'static str,
    #[serde(skip)]
    decimals: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    name: String,
    /// One list a run, in the order of the columns.
    runs: Vec<Vec<f64>>,
}

impl Report {
    /// A report without figures.
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            events: args.events,
            rooms: args.rooms,
            log_level: args.log_level.clone(),
            binary_mib: std::fs::metadata(&args.worker)?.len() as f64 / f64::from(1 << 20),
            tables: vec![
                table(&[
                    ("events/s", 0),
                    ("CPU s per 100,000", 2),
                    ("peak MiB", 1),
                    ("database's CPU s per 100,000", 2),
                ]),
                table(&[("p50 ms", 2), ("p99 ms", 2), ("longest ms", 1), ("share of a core", 2)]),
                table(&[("first start ms", 0), ("start ms", 0)]),
                table(&[
                    ("messages/s", 0),
                    ("times one worker", 2),
                    ("workers' CPU s per 100,000", 2),
                    ("database's CPU s per 100,000", 2),
                    ("cores busy", 2),
                ]),
                table(&[
                    ("claim ms", 2),
                    ("longest ms", 2),
                    ("give back ms", 2),
                    ("next due ms", 2),
                    ("gauges ms", 2),
                ]),
                table(&[("ready ms", 0), ("MiB when ready", 1), ("peak MiB", 1), ("messages/s", 0)]),
            ],
            remarks: Vec::new(),
            plans: Vec::new(),
        })
    }

    /// Whether a table has a row yet.
    pub fn has(&self, table: usize) -> bool {
        !self.tables[table].rows.is_empty()
    }

    /// Adds a remark on a row.
    pub fn remark(&mut self, row: &str, remark: &str) {
        self.remarks.push(format!("{row}: {remark}"));
    }

    /// Adds a plan.
    pub fn add_plan(&mut self, name: String, plan: String) {
        self.plans.push(Plan { name, plan });
    }

    /// Adds one run's figures to a row.
    pub fn add(&mut self, table: usize, name: &str, figures: Vec<f64>) {
        let rows = &mut self.tables[table].rows;
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.runs.push(figures),
            None => rows.push(Row { name: name.to_owned(), runs: vec![figures] }),
        }
    }

    /// `worker` in proportion to `bare`: rate and CPU.
    fn ratio(&self, worker: &str, bare: &str) -> Option<String> {
        let rows = &self.tables[THROUGHPUT].rows;
        let median = |name: &str, column| {
            Some(rows.iter().find(|row| row.name == name)?.spread(column).median).filter(|m| *m > 0.0)
        };
        let rate = median(worker, 0)? / median(bare, 0)?;
        let cpu = median(worker, 1)? / median(bare, 1)?;
        Some(format!("{worker}: {rate:.2} of the rate of \"{bare}\", {cpu:.1} times its CPU"))
    }
}

fn table(columns: &[(&'static str, usize)]) -> Table {
    let columns = columns.iter().map(|(name, decimals)| Column { name, decimals: *decimals }).collect();
    Table { columns, rows: Vec::new() }
}

/// Median, lowest, highest.
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Row {
    fn spread(&self, column: usize) -> Spread {
        let mut values: Vec<f64> = self.runs.iter().map(|run| run[column]).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Spread { median, lowest: values[0], highest: values[values.len() - 1] }
    }

    fn cell(&self, index: usize, column: &Column) -> String {
        let Spread { median, lowest, highest } = self.spread(index);
        let show = |value: f64| number(value, column.decimals);
        if median.is_nan() {
            return String::new();
        }
        match self.runs.len() {
            1 => show(median),
            _ => format!("{} ({}-{})", show(median), show(lowest), show(highest)),
        }
    }
}

/// With commas between thousands.
fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (text.as_str(), String::new()),
    };
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &fraction
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, events, rooms, log_level, binary_mib, tables, remarks, plans } = self;
        let runs = tables.iter().flat_map(|t| &t.rows).map(|row| row.runs.len()).min().unwrap_or(0);
        writeln!(f, "{cores} cores ({processor}), shared by broker, database, worker and sink")?;
        writeln!(f, "{events} events, {rooms} rooms, log level {log_level}")?;
        writeln!(f, "median of {runs} runs or more (lowest-highest)\n")?;
        for table in tables.iter().filter(|table| !table.rows.is_empty()) {
            writeln!(f, "{table}")?;
        }
        let ratios = [
            self.ratio("worker: suppressed", "bare: consume, parse, ack"),
            self.ratio("worker: suppressed, PostgreSQL", "bare: consume, parse, ack"),
            self.ratio("worker: sent", BARE_POST),
            self.ratio("worker: sent, PostgreSQL", BARE_POST),
        ];
        let peers = Peer::ALL.map(|peer| self.ratio(peer.row(), BARE_POST));
        for ratio in ratios.into_iter().chain(peers).flatten() {
            writeln!(f, "{ratio}")?;
        }
        for remark in remarks {
            writeln!(f, "{remark}")?;
        }
        writeln!(f, "binary: {binary_mib:.1} MiB")?;
        for Plan { name, plan } in plans {
            writeln!(f, "\n{name}\n{plan}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    /// A Markdown table, padded so that it reads well as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = std::iter::once(String::new()).chain(self.columns.iter().map(|c| c.name.to_owned()));
        let mut lines = vec![head.collect::<Vec<_>>()];
        for row in &self.rows {
            let cells = self.columns.iter().enumerate().map(|(index, column)| row.cell(index, column));
            lines.push(std::iter::once(row.name.clone()).chain(cells).collect());
        }
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        lines.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());
        for line in lines {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}
