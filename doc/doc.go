// Package doc holds the pages of documentation that the program itself serves.
package doc

import _ "embed"

// Refusals is refusals.md. The OpenAPI document has its paragraphs, each under its
// code.
//
//go:embed refusals.md
var Refusals string
