//! What every picture of the laboratory shares: where it is drawn, its font, the colours of its
//! frame.

use std::{path::Path, sync::Once};

use anyhow::{Context as _, anyhow};
use plotters::{
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
