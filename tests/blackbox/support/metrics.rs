//! The Prometheus text format, as far as these tests need it.

/// Every sample of a scrape.
pub struct Metrics(Vec<Sample>);

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads a scrape. Label values here hold neither commas nor quotes.
    pub fn parse(text: &str) -> Self {
        Metrics(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(parse_line)
                .collect(),
        )
    }

    /// The sum of a metric's samples that have all of these labels; 0 if there
    /// is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, label: &(&str, &str)| {
            sample
                .labels
                .iter()
                .any(|(n, v)| (n.as_str(), v.as_str()) == *label)
        };
        let fits =
            |sample: &&Sample| sample.name == name && labels.iter().all(|label| has(sample, label));
        self.0.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// Whether there is any sample of it.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }

    /// The values a label has anywhere.
    pub fn values_of(&self, label: &str) -> Vec<String> {
        let of = |sample: &Sample| {
            sample
                .labels
                .iter()
                .find(|(name, _)| name == label)
                .map(|(_, v)| v.clone())
        };
        self.0.iter().filter_map(of).collect()
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample {
            name: series.to_owned(),
            labels: Vec::new(),
            value,
        });
    };
    let label = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    let labels = labels
        .trim_end_matches('}')
        .split("\",")
        .filter_map(label)
        .collect();
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}
