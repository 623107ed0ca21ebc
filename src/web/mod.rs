//! The wasm-bindgen surface: conversions only, no logic.
