// Package auth stands in for the fork of go-http-auth that Traefik's basicAuth
// and digestAuth middlewares use and that module proxies do not carry.
// The demo and the tests use neither; anything that does is refused.
package auth

import "net/http"

// BasicAuth refuses every request.
type BasicAuth struct {
	Realm   string
	Secrets func(user, realm string) string
	Headers http.Header
}

// CheckAuth finds no user.
func (*BasicAuth) CheckAuth(*http.Request) string { return "" }

// RequireAuth answers 401.
func (*BasicAuth) RequireAuth(rw http.ResponseWriter, _ *http.Request) { refuse(rw) }

// CheckSecret accepts no password.
func CheckSecret(_, _ string) bool { return false }

// DigestAuth refuses every request.
type DigestAuth struct{}

// NewDigestAuthenticator returns a DigestAuth.
func NewDigestAuthenticator(string, func(user, realm string) string) *DigestAuth {
	return &DigestAuth{}
}

// CheckAuth finds no user.
func (*DigestAuth) CheckAuth(*http.Request) (string, *string) { return "", nil }

// RequireAuth answers 401.
func (*DigestAuth) RequireAuth(rw http.ResponseWriter, _ *http.Request) { refuse(rw) }

// RequireAuthStale answers 401.
func (*DigestAuth) RequireAuthStale(rw http.ResponseWriter, _ *http.Request) { refuse(rw) }

// DigestAuthParams parses nothing.
func DigestAuthParams(string) map[string]string { return nil }

func refuse(rw http.ResponseWriter) {
	http.Error(rw, "this build of Traefik has no basicAuth and no digestAuth", http.StatusUnauthorized)
}
