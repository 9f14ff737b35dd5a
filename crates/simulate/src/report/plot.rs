//! Axes, lines and points as SVG.

use std::fmt::Write as _;

/// Room for tick labels and the axes' names.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// Seconds to days.
const TIMES: [f64; 22] = [
    0.01,
    0.1,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1_800.0,
    3_600.0,
    7_200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    691_200.0,
    1_382_400.0,
    2_764_800.0,
];

/// How values are spread over an axis and written at its ticks.
pub(super) struct Axis {
    pub(super) name: &'static str,
    /// The least and the greatest value shown.
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) is_log: bool,
    /// Whether values are seconds.
    pub(super) is_time: bool,
    pub(super) unit: fn(f64) -> String,
}

impl Axis {
    /// One that shows all of `values`. On a logarithmic axis, zero and less stand at its lower end.
    pub(super) fn over(
        name: &'static str,
        values: impl Iterator<Item = f64>,
        is_log: bool,
        unit: fn(f64) -> String,
    ) -> Self {
        let shown = values.filter(|value| value.is_finite() && (!is_log || *value > 0.0));
        let (from, to) = shown.fold((f64::INFINITY, 0.0_f64), |(from, to), value| (from.min(value), to.max(value)));
        let (from, to) = match (is_log, from.is_finite() && to > 0.0) {
            (_, false) => (if is_log { 0.1 } else { 0.0 }, 1.0),
            (false, true) => (0.0, to * 1.05),
            // A little room, so that no point lies on the frame.
            (true, true) => (from / 1.5, to * 1.5),
        };
        Self { name, from, to, is_log, is_time: false, unit }
    }

    /// The same of seconds, with the ticks of a clock.
    pub(super) fn of_time(name: &'static str, values: impl Iterator<Item = f64>) -> Self {
        Self { is_time: true, ..Self::over(name, values, true, super::words::seconds) }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_log { self.log_ticks() } else { self.linear_ticks() }
    }

    /// Powers of ten, with 2 and 5 times those where there are few. Of times, what people count them in.
    fn log_ticks(&self) -> Vec<f64> {
        let is_shown = |tick: &f64| (self.from..=self.to).contains(tick);
        if self.is_time {
            let ticks: Vec<f64> = TIMES.into_iter().filter(is_shown).collect();
            let step = ticks.len().div_ceil(8).max(1);
            if !ticks.is_empty() {
                return ticks.into_iter().step_by(step).collect();
            }
        }
        let decades = (self.to / self.from).log10();
        let factors: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let step = if decades > 8.0 { 2 } else { 1 };
        #[expect(clippy::cast_possible_truncation, reason = "exponents of ten")]
        let (low, high) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
        let powers = (low..=high).step_by(step).map(|power| 10_f64.powi(power));
        let ticks = powers.flat_map(|power| factors.iter().map(move |factor| power * factor));
        ticks.filter(is_shown).collect()
    }

    /// About five round numbers.
    fn linear_ticks(&self) -> Vec<f64> {
        let rough = (self.to - self.from) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let mut ticks = Vec::new();
        let mut tick = (self.from / step).ceil() * step;
        while tick <= self.to && ticks.len() < 20 {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }
}

/// A plot under way.
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    width: f64,
    height: f64,
    left: f64,
    svg: String,
}

impl Plot {
    pub(super) fn new(title: &str, x: Axis, y: Axis, (width, height): (f64, f64)) -> Self {
        let mut plot = Self { x, y, width, height, left: LEFT, svg: String::new() };
        plot.begin(title);
        plot.x_ticks();
        for tick in plot.y.ticks() {
            let at = plot.y_at(tick);
            let (left, right, label) = (plot.left, plot.width - RIGHT, (plot.y.unit)(tick));
            plot.push(format_args!("<line class='grid' x1='{left:.1}' x2='{right:.1}' y1='{at:.1}' y2='{at:.1}'/>"));
            plot.push(format_args!(
                "<text class='tick' x='{:.1}' y='{:.1}' text-anchor='end'>{label}</text>",
                left - 7.0,
                at + 4.0
            ));
        }
        let middle = (TOP + plot.height - BOTTOM) / 2.0;
        let name = plot.y.name;
        plot.push(format_args!(
            "<text class='axis' transform='translate(13 {middle:.1}) rotate(-90)' text-anchor='middle'>{name}</text>"
        ));
        plot
    }

    /// One whose rows have names instead of values.
    pub(super) fn of_rows(title: &str, x: Axis, rows: &[String], width: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "some dozens")]
        let count = rows.len() as f64;
        let y = Axis { name: "", from: 0.0, to: count, is_log: false, is_time: false, unit: |_| String::new() };
        let (left, height) = (230.0, TOP + BOTTOM + 26.0 * count);
        let mut plot = Self { x, y, width, height, left, svg: String::new() };
        plot.begin(title);
        plot.x_ticks();
        for (row, name) in rows.iter().enumerate() {
            let at = Self::row_at(row);
            let right = plot.width - RIGHT;
            plot.push(format_args!("<line class='grid' x1='{left:.1}' x2='{right:.1}' y1='{at:.1}' y2='{at:.1}'/>"));
            plot.push(format_args!(
                "<text class='row' x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>",
                left - 9.0,
                at + 4.0,
                escaped(name)
            ));
        }
        plot
    }

    fn begin(&mut self, title: &str) {
        let (width, height, title) = (self.width, self.height, escaped(title));
        self.push(format_args!("<svg viewBox='0 0 {width:.0} {height:.0}' role='img' aria-label='{title}'>"));
    }

    fn x_ticks(&mut self) {
        let bottom = self.height - BOTTOM;
        for tick in self.x.ticks() {
            let (at, label) = (self.x_at(tick), (self.x.unit)(tick));
            self.push(format_args!("<line class='grid' x1='{at:.1}' x2='{at:.1}' y1='{TOP}' y2='{bottom:.1}'/>"));
            let below = bottom + 17.0;
            self.push(format_args!(
                "<text class='tick' x='{at:.1}' y='{below:.1}' text-anchor='middle'>{label}</text>"
            ));
        }
        let (middle, below, name) = ((self.left + self.width - RIGHT) / 2.0, self.height - 8.0, self.x.name);
        self.push(format_args!("<text class='axis' x='{middle:.1}' y='{below:.1}' text-anchor='middle'>{name}</text>"));
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.svg.write_fmt(part);
    }

    fn x_at(&self, value: f64) -> f64 {
        self.left + self.x.place(value) * (self.width - RIGHT - self.left)
    }

    fn y_at(&self, value: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - self.y.place(value) * (bottom - TOP)
    }

    fn row_at(row: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "some dozens")]
        let row = row as f64;
        TOP + 13.0 + 26.0 * row
    }

    /// A line through all points.
    pub(super) fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, class: &str, title: &str) {
        let mut path = String::new();
        for (x, y) in points {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.x_at(x), self.y_at(y));
        }
        let title = escaped(title);
        self.push(format_args!("<path class='line {class}' d='{path}'><title>{title}</title></path>"));
    }

    /// A line from side to side.
    pub(super) fn level(&mut self, y: f64, class: &str, label: &str) {
        let (at, left, right, label) = (self.y_at(y), self.left, self.width - RIGHT, escaped(label));
        self.push(format_args!(
            "<line class='level {class}' x1='{left:.1}' x2='{right:.1}' y1='{at:.1}' y2='{at:.1}'/>"
        ));
        let above = if at < TOP + 16.0 { at + 14.0 } else { at - 5.0 };
        self.push(format_args!(
            "<text class='note' x='{:.1}' y='{above:.1}' text-anchor='end'>{label}</text>",
            right - 4.0
        ));
    }

    /// A disc with a number in it.
    pub(super) fn numbered(&mut self, (x, y): (f64, f64), class: &str, number: usize, title: &str) {
        let (x, y, title) = (self.x_at(x), self.y_at(y), escaped(title));
        self.push(format_args!(
            "<g class='dot {class}'><title>{title}</title><circle cx='{x:.1}' cy='{y:.1}' r='9'/>\
             <text x='{x:.1}' y='{:.1}' text-anchor='middle'>{number}</text></g>",
            y + 3.8
        ));
    }

    /// A span of a row, and marks in it.
    pub(super) fn row(&mut self, row: usize, class: &str, (from, to): (f64, f64), marks: &[(f64, &str, String)]) {
        let (at, from, to) = (Self::row_at(row), self.x_at(from), self.x_at(to));
        self.push(format_args!("<line class='span {class}' x1='{from:.1}' x2='{to:.1}' y1='{at:.1}' y2='{at:.1}'/>"));
        for (value, shape, title) in marks {
            let (x, title) = (self.x_at(*value), escaped(title));
            self.push(format_args!(
                "<circle class='mark {shape} {class}' cx='{x:.1}' cy='{at:.1}' r='5.5'><title>{title}</title></circle>"
            ));
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// Text that may stand anywhere in HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64], is_log: bool) -> Axis {
        Axis::over("x", values.iter().copied(), is_log, |value| value.to_string())
    }

    #[test]
    fn ticks_are_round_and_few_whatever_the_values() {
        for values in [&[0.0, 7.3][..], &[1e-9], &[3e12, 1.0], &[0.0], &[], &[f64::NAN, f64::INFINITY]] {
            for is_log in [false, true] {
                let axis = axis(values, is_log);
                let ticks = axis.ticks();
                assert!(!ticks.is_empty() && ticks.len() <= 20, "{values:?} {ticks:?}");
                assert!(
                    values
                        .iter()
                        .filter(|value| value.is_finite())
                        .all(|value| (0.0..=1.0).contains(&axis.place(*value)))
                );
            }
        }
        assert_eq!(axis(&[9.0], false).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(axis(&[1.0, 10.0], true).ticks(), [1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escaped("<a b='c' d=\"e\">&\n"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp; ");
    }
}
