// Package bare is the least that an interpreted middleware can do: a method that only forwards.
package bare

import (
	"context"
	"net/http"
)

// Config has no options.
type Config struct{}

// CreateConfig returns it.
func CreateConfig() *Config { return &Config{} }

type bare struct {
	next http.Handler
}

// New returns the middleware.
func New(_ context.Context, next http.Handler, _ *Config, _ string) (http.Handler, error) {
	return &bare{next: next}, nil
}

func (b *bare) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	b.next.ServeHTTP(rw, req)
}
