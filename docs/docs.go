// Package docs holds documents that the program serves.
package docs

import _ "embed"

// OpenAPI describes the gateway's HTTP API, in YAML (OpenAPI 3.1).
//
//go:embed openapi.yaml
var OpenAPI []byte
