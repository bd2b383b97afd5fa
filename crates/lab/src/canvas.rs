//! What every picture of the laboratory shares: where it is drawn, its font, the colours of its
//! frame.

use std::{path::Path, sync::Once};

use anyhow::{Context as _, anyhow};
use plotters::{
    chart::MeshStyle,
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

pub(crate) const GRID: RGBColor = RGBColor(232, 232, 232);
pub(crate) const INK: RGBColor = RGBColor(50, 50, 50);

/// Something that can be drawn on any backend.
pub(crate) trait Sketch {
    /// Draws all of it and presents it.
    fn draw_on<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static;
}

/// Draws to `path`, PNG or SVG by its extension.
pub(crate) fn draw(path: &Path, size: (u32, u32), sketch: &impl Sketch) -> anyhow::Result<()> {
    prepare_fonts();
    let result = match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => sketch.draw_on(&SVGBackend::new(path, size).into_drawing_area()),
        Some("png") => sketch.draw_on(&BitMapBackend::new(path, size).into_drawing_area()),
        _ => Err(anyhow!("write .png or .svg")),
    };
    result.with_context(|| format!("cannot draw {}", path.display()))
}

/// Text of so many pixels.
pub(crate) fn text(pixels: u32) -> TextStyle<'static> {
    ("sans-serif", pixels).into_font().color(&INK)
}

/// Writes a picture's title into its head.
pub(crate) fn title<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    words: &str,
    pixels: u32,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let bold = ("sans-serif", pixels, FontStyle::Bold).into_font().color(&INK);
    area.draw(&Text::new(words.to_owned(), (12, 4), bold))?;
    Ok(())
}

/// The look of every chart's frame; its axes are named in `colour`.
pub(crate) fn frame<'m, 'a, 'b, X: Ranged, Y: Ranged, B: DrawingBackend>(
    mesh: &'m mut MeshStyle<'a, 'b, X, Y, B>,
    colour: RGBColor,
) -> &'m mut MeshStyle<'a, 'b, X, Y, B> {
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK.mix(0.4))
        .label_style(text(15))
        .axis_desc_style(("sans-serif", 17).into_font().color(&colour))
}

/// Makes "sans-serif" known to plotters, which brings no font of its own.
pub(crate) fn prepare_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (style, font) in
            [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())]
        {
            // It fails only for bytes that are no font.
            let _ = register_font("sans-serif", style, font);
        }
    });
}
