//! Drawings of figures over an axis.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::figures::Spread;

/// Pixels.
const SIZE: (u32, u32) = (760, 420);

/// One colour for each line, told apart also by those who see fewer colours.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// What is to be drawn.
pub struct Plot {
    /// Above it.
    pub title: String,
    /// What the axis to the right is.
    pub across: String,
    /// What the axis upwards is.
    pub up: String,
    /// What stands below places 0, 1, 2 ... of the axis to the right; `None`: the places are numbers themselves.
    pub steps: Option<Vec<String>>,
    /// Whether the axis upwards is.
    pub logarithmic: bool,
    /// Names, and points with their spread.
    pub lines: Vec<(&'static str, Vec<(f64, Spread)>)>,
}

/// Draws to a file.
pub fn draw(file: &Path, plot: &Plot) -> Result<()> {
    // The library's errors borrow the drawing.
    try_draw(file, plot).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn try_draw(file: &Path, plot: &Plot) -> Result<(), Box<dyn std::error::Error>> {
    // Heights are drawn as their logarithms where that is asked for.
    let height = |value: f64| if plot.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
    let points = || plot.lines.iter().flat_map(|(_, points)| points);
    let right = match &plot.steps {
        Some(steps) => -0.3..steps.len() as f64 - 0.7,
        None => 0.0..points().map(|(x, _)| *x).fold(1.0, f64::max) * 1.05,
    };
    let [lowest, highest] = [
        points().map(|(_, spread)| height(spread.least)).fold(f64::INFINITY, f64::min),
        points().map(|(_, spread)| height(spread.most)).fold(f64::NEG_INFINITY, f64::max),
    ];
    // Room for the names above the lines.
    let lowest = if plot.logarithmic { lowest.floor() } else { 0.0 };
    let up = lowest..lowest + 1.4 * (highest - lowest).max(1e-9);

    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(right, up)?;
    let step = |x: &f64| {
        let Some(steps) = &plot.steps else { return thousands(*x) };
        let is_step = (x - x.round()).abs() < 1e-6 && *x > -0.5;
        steps.get(x.round() as usize).filter(|_| is_step).cloned().unwrap_or_default()
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_labels(plot.steps.as_ref().map_or(8, |steps| 2 * steps.len()))
        .x_label_formatter(&step)
        .y_label_formatter(&|y| thousands(if plot.logarithmic { 10f64.powf(*y) } else { *y }))
        .x_desc(&plot.across)
        .y_desc(&plot.up)
        .label_style(("sans-serif", 16))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for ((name, points), colour) in plot.lines.iter().zip(COLOURS.iter().cycle()) {
        let line = points.iter().map(|(x, spread)| (*x, height(spread.median)));
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(*name)
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line.map(|point| Circle::new(point, 3, colour.filled())))?;
        let spreads = points.iter().map(|(x, spread)| vec![(*x, height(spread.least)), (*x, height(spread.most))]);
        chart.draw_series(spreads.map(|ends| PathElement::new(ends, colour.stroke_width(1))))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperMiddle)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 16))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A number short enough for an axis.
fn thousands(value: f64) -> String {
    match value {
        10_000.0.. => format!("{:.0} k", value / 1e3),
        1_000.0.. => format!("{:.1} k", value / 1e3),
        10.0.. | 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_an_axis_are_short() {
        let shown = [0.0, 0.32, 5.0, 32.1, 100.0, 1500.0, 200_000.0].map(thousands);
        assert_eq!(shown, ["0", "0.3", "5.0", "32", "100", "1.5 k", "200 k"]);
    }

    #[test]
    fn steps_stand_below_their_points() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let spread = Spread { median: 2.0, least: 1.0, most: 3.0 };
        let steps = ["1", "8", "64"].map(str::to_owned).to_vec();
        let points = (0..3).map(|place| (f64::from(place), spread)).collect();
        let (title, across, up) = ("A title".to_owned(), "below".to_owned(), "beside".to_owned());
        let plot =
            Plot { title, across, up, steps: Some(steps), logarithmic: false, lines: vec![("somebody", points)] };
        draw(file.path(), &plot).unwrap();
        let drawing = std::fs::read_to_string(file.path()).unwrap();
        let words: Vec<_> = drawing.lines().map(str::trim).collect();
        for word in ["A title", "below", "beside", "somebody", "8", "64"] {
            assert!(words.contains(&word), "{word} is not in {drawing}");
        }
        assert_eq!(drawing.matches("<circle").count(), 3);
    }
}
