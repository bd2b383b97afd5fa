//! The embedded page: three static files. The token comes in the address's fragment, which
//! browsers keep to themselves.

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse, Response},
    routing::get,
};

use super::Served;

/// Nothing is loaded from elsewhere, and no other page may frame this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self' ws:; frame-ancestors 'none'; base-uri 'none'";

pub(super) fn routes() -> Router<Served> {
    Router::new()
        .route("/", get(index))
        .route("/page/style.css", get(|| file("text/css", include_str!("page/style.css"))))
        .route("/page/page.js", get(|| file("text/javascript", include_str!("page/page.js"))))
}

async fn index() -> Response {
    let headers =
        [(header::CONTENT_SECURITY_POLICY, POLICY), (header::REFERRER_POLICY, "no-referrer")];
    (headers, Html(include_str!("page/index.html"))).into_response()
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
