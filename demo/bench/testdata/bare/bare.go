// Package bare is the least that an interpreted middleware can do: a method that only forwards, or
// a function that answers every request with one document.
package bare

import (
	"context"
	"net/http"
)

// Config tells which of the two it does.
type Config struct {
	Document string
}

// CreateConfig returns the one that forwards.
func CreateConfig() *Config { return &Config{} }

type bare struct {
	next http.Handler
}

// New returns the middleware.
func New(_ context.Context, next http.Handler, config *Config, _ string) (http.Handler, error) {
	if config.Document == "" {
		return &bare{next: next}, nil
	}
	body := []byte(config.Document)
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		header := rw.Header()
		header["Access-Control-Allow-Origin"] = anyOrigin
		header["X-Content-Type-Options"] = nosniff
		header["Cache-Control"] = cacheControl
		header["Etag"] = etag
		header["Content-Type"] = contentType
		_, _ = rw.Write(body)
	}), nil
}

var (
	anyOrigin    = []string{"*"}
	nosniff      = []string{"nosniff"}
	contentType  = []string{"application/json"}
	cacheControl = []string{"public, max-age=3600"}
	etag         = []string{`"c294b7608037721b8b708b216a1f7907"`}
)

func (b *bare) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	b.next.ServeHTTP(rw, req)
}
