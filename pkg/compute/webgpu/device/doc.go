// Package device is the thin layer between Shoal and the WebGPU library: adapters,
// buffers, pipelines, recorded commands and read-backs. It is the one package
// that imports the binding, and the one with C code of our own.
//
// The binding hands C the addresses of Go variables in its callbacks, which the
// collector may move or free. So what the library calls back later (a mapped
// buffer, an error) reaches state that C owns (shim.go). Recording
// goes through one call a step instead of three a dispatch.
//
// Without cgo, and on systems that the library is not made for, the package is
// empty.
package device
