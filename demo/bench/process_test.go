package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/traefik/traefik/v3/pkg/plugins"

	"github.com/continuwuity/wellknown"
	"github.com/continuwuity/wellknown/demo/internal/stack"
)

const plugin = "github.com/continuwuity/wellknown"

// full is a configuration that sets every option.
var full = map[string]any{
	"server": "matrix.example.com:443", "client": "https://matrix.example.com",
	"identityServer": "https://identity.example.com", "livekit": "https://livekit.example.com,https://livekit.example.org",
	"clientExtra": `{"io.element.e2ee":{"force_disable":true},"m.tile_server":{"map_style_url":"https://maps.example.com/style.json"}}`,
	"supportPage": "https://example.com/support", "supportRole": "m.role.admin", "supportEmail": "admin@example.com",
	"supportMxid": "@admin:example.com", "supportPgpKey": "openpgp4fpr:0123456789ABCDEF0123456789ABCDEF01234567",
	"supportContacts": []any{map[string]any{
		"role": "m.role.security", "email": "security@example.com", "mxid": "@security:example.com", "pgpKey": "https://example.com/security.asc",
	}},
	"policyServerPublicKey": "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s",
	"documents":             map[string]any{"mautrix": `{"fi.mau.bridges":["https://bridges.example.com"]}`},
	"cacheMaxAge":           "3600", "standalone": "false",
}

// install lays out both plugins as local mode wants them, below the working directory.
func install(tb testing.TB) map[string]plugins.LocalDescriptor {
	tb.Helper()
	bare, err := filepath.Abs(filepath.Join("testdata", "bare"))
	require.NoError(tb, err)
	tb.Chdir(tb.TempDir())
	sources := filepath.Join("plugins-local", "src")
	require.NoError(tb, stack.Install(filepath.Join(sources, filepath.FromSlash(plugin))))
	require.NoError(tb, os.CopyFS(filepath.Join(sources, "example.org", "bare"), os.DirFS(bare)))
	return map[string]plugins.LocalDescriptor{"wellknown": {ModuleName: plugin}, "bare": {ModuleName: "example.org/bare"}}
}

// handlers are the same middleware in each way that it is compared.
func handlers(tb testing.TB, next http.Handler) map[string]http.Handler {
	tb.Helper()
	builder, err := plugins.NewBuilder(nil, nil, install(tb))
	require.NoError(tb, err)
	all := map[string]http.Handler{}
	for name, config := range map[string]map[string]any{"wellknown": full, "bare": nil} {
		constructor, err := builder.Build(name, config, "test")
		require.NoError(tb, err)
		all[name], err = constructor(context.Background(), next)
		require.NoError(tb, err)
	}
	config := wellknown.CreateConfig()
	config.Server, config.Client, config.SupportEmail = "matrix.example.com:443", "https://matrix.example.com", "admin@example.com"
	all["compiled"], err = wellknown.New(context.Background(), next, config, "test")
	require.NoError(tb, err)
	return all
}

// BenchmarkNew is what each router costs at each change of Traefik's configuration.
func BenchmarkNew(b *testing.B) {
	builder, err := plugins.NewBuilder(nil, nil, install(b))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		makeOne(b, builder)
	}
}

// BenchmarkImport is what the plugin adds to Traefik's start.
func BenchmarkImport(b *testing.B) {
	local := install(b)
	for name, descriptors := range map[string]map[string]plugins.LocalDescriptor{
		"bare": {"bare": local["bare"]}, "wellknown": {"wellknown": local["wellknown"]},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := plugins.NewBuilder(nil, nil, descriptors)
				require.NoError(b, err)
			}
		})
	}
}

func makeOne(tb testing.TB, builder *plugins.Builder) {
	tb.Helper()
	constructor, err := builder.Build("wellknown", full, "test")
	require.NoError(tb, err)
	_, err = constructor(context.Background(), http.NotFoundHandler())
	require.NoError(tb, err)
}

// TestNewRetainsNothing makes and drops what Traefik makes in 10,000 changes of its configuration.
func TestNewRetainsNothing(t *testing.T) {
	builder, err := plugins.NewBuilder(nil, nil, install(t))
	require.NoError(t, err)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	makeOne(t, builder)
	before := heap()
	for range 10_000 {
		makeOne(t, builder)
	}
	after := heap()
	runtime.KeepAlive(builder)
	t.Logf("%.2f MB before, %.2f MB after", float64(before)/1e6, float64(after)/1e6)
	require.Less(t, after, before+1e6) // 100 bytes for each
}

// discard is a ResponseWriter that costs next to nothing.
type discard struct {
	header http.Header
}

func (d *discard) Header() http.Header { return d.header }

func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func (d *discard) WriteHeader(int) {}

func request(tb testing.TB, method, path string, headers ...string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, path, nil)
	require.NoError(tb, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

func serve(b *testing.B, handler http.Handler, req *http.Request) {
	b.Helper()
	rw := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(rw.header)
		handler.ServeHTTP(rw, req)
	}
}

// BenchmarkForward is what every Matrix request pays.
func BenchmarkForward(b *testing.B) {
	all := handlers(b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	req := request(b, http.MethodGet, "/_matrix/client/v3/sync?timeout=30000", "Authorization", "Bearer x")
	for _, name := range []string{"compiled", "bare", "wellknown"} {
		b.Run(name, func(b *testing.B) { serve(b, all[name], req) })
	}
}

// BenchmarkDocument is what a request for a document pays.
func BenchmarkDocument(b *testing.B) {
	all := handlers(b, http.NotFoundHandler())
	etag := &discard{header: http.Header{}}
	all["wellknown"].ServeHTTP(etag, request(b, http.MethodGet, "/.well-known/matrix/server"))
	for _, c := range []struct {
		name string
		req  *http.Request
	}{
		{"server", request(b, http.MethodGet, "/.well-known/matrix/server")},
		{"client", request(b, http.MethodGet, "/.well-known/matrix/client")},
		{"support", request(b, http.MethodGet, "/.well-known/matrix/support")},
		{"head", request(b, http.MethodHead, "/.well-known/matrix/server")},
		{"304", request(b, http.MethodGet, "/.well-known/matrix/server", "If-None-Match", etag.header.Get("Etag"))},
		{"preflight", request(b, http.MethodOptions, "/.well-known/matrix/client", "Origin", "https://app.example.org")},
		{"405", request(b, http.MethodPost, "/.well-known/matrix/client")},
	} {
		for _, name := range []string{"compiled", "wellknown"} {
			b.Run(c.name+"/"+name, func(b *testing.B) { serve(b, all[name], c.req) })
		}
	}
}
