package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"go/parser"
	"go/token"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mitchellh/mapstructure"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/traefik/paerser/file"
	"github.com/traefik/traefik/v3/pkg/plugins"
	"github.com/traefik/yaegi/interp"
	"github.com/traefik/yaegi/stdlib"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
	"gopkg.in/yaml.v3"

	"github.com/continuwuity/wellknown/demo/internal/tools"
	"github.com/continuwuity/wellknown/testdata/cases"
)

// plugin is the module path, version what the README names.
const (
	plugin  = "github.com/continuwuity/wellknown"
	version = "v1.0.0"
)

func root(elements ...string) string {
	return filepath.Join(append([]string{tools.Dir(), ".."}, elements...)...)
}

func read(t *testing.T, elements ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(root(elements...))
	require.NoError(t, err)
	return content
}

// TestCatalogAccepts repeats what the plugin catalog's validator does with a release.
func TestCatalogAccepts(t *testing.T) {
	content := read(t, ".traefik.yml")
	var manifest, stringly plugins.Manifest
	require.NoError(t, yaml.Unmarshal(content, &manifest))
	require.NoError(t, file.DecodeContent(string(content), ".yaml", &stringly)) // scalars become strings
	assert.Equal(t, "middleware", manifest.Type)
	assert.Equal(t, plugin, manifest.Import)
	assert.NotEmpty(t, manifest.DisplayName)
	assert.NotEmpty(t, manifest.Summary)
	assert.NotEmpty(t, manifest.TestData)
	assert.False(t, manifest.UseUnsafe)
	assert.Empty(t, manifest.BasePkg)

	mod, err := modfile.Parse("go.mod", read(t, "go.mod"), nil)
	require.NoError(t, err)
	assert.Equal(t, plugin, mod.Module.Mod.Path)
	named := []string{}
	for _, require := range mod.Require {
		named = append(named, require.Mod.Path)
	}
	for _, tool := range mod.Tool {
		named = append(named, tool.Path)
	}
	for _, path := range named {
		for _, banned := range []string{"github.com/containous/", "github.com/traefik/yaegi", "github.com/traefik/traefik", "github.com/traefik/mesh"} {
			assert.NotContains(t, path, banned)
		}
	}

	// The catalog works on the module's zip, without a Go environment and without unsafe.
	goPath := t.TempDir()
	archive := filepath.Join(goPath, "plugin.zip")
	require.NoError(t, os.WriteFile(archive, archived(t), 0o600))
	require.NoError(t, zip.Unzip(filepath.Join(goPath, "src", plugin), module.Version{Path: plugin, Version: version}, archive))
	for name, testData := range map[string]map[string]any{"as YAML": manifest.TestData, "as strings": stringly.TestData} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			i := interp.New(interp.Options{GoPath: goPath})
			require.NoError(t, i.Use(stdlib.Symbols))
			_, err := i.EvalWithContext(ctx, `import "`+manifest.Import+`"`)
			require.NoError(t, err)
			config, err := i.EvalWithContext(ctx, `wellknown.CreateConfig()`)
			require.NoError(t, err)
			decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
				DecodeHook:       mapstructure.StringToSliceHookFunc(","),
				WeaklyTypedInput: true,
				Result:           config.Interface(),
			})
			require.NoError(t, err)
			require.NoError(t, decoder.Decode(testData))
			create, err := i.EvalWithContext(ctx, `wellknown.New`)
			require.NoError(t, err)
			arguments := []reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(cases.Echo), config, reflect.ValueOf("test")}
			results := create.Call(arguments)
			require.Nil(t, results[1].Interface())
			require.Implements(t, (*http.Handler)(nil), results[0].Interface())
		})
	}
}

// TestPluginImportsTheStandardLibraryOnly is what makes it load without its vendor folder.
func TestPluginImportsTheStandardLibraryOnly(t *testing.T) {
	parsed, err := parser.ParseFile(token.NewFileSet(), root("wellknown.go"), nil, parser.ImportsOnly)
	require.NoError(t, err)
	assert.Equal(t, filepath.Base(plugin), parsed.Name.Name)
	for _, spec := range parsed.Imports {
		first, _, _ := strings.Cut(strings.Trim(spec.Path.Value, `"`), "/")
		assert.NotContains(t, first, ".", spec.Path.Value)
	}
}

// archived is the module's zip as the module proxy makes it of a tag.
func archived(t *testing.T) []byte {
	t.Helper()
	var buffer bytes.Buffer
	require.NoError(t, zip.CreateFromDir(&buffer, module.Version{Path: plugin, Version: version}, root()))
	return buffer.Bytes()
}

// serveCatalog stands in for the plugin catalog, over TLS and under its own name, and hands out this
// checkout as the released version. The environment that it returns leads a Traefik there, and
// nowhere else.
func serveCatalog(t *testing.T) []string {
	t.Helper()
	const name = "plugins.traefik.io"
	archive := archived(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /public/download/"+plugin+"/"+version, func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(archive) })
	mux.HandleFunc("GET /public/validate/"+plugin+"/"+version, func(http.ResponseWriter, *http.Request) {})
	catalog := httptest.NewUnstartedServer(mux)
	certificate, authority := certificateFor(t, name)
	catalog.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	catalog.StartTLS()
	t.Cleanup(catalog.Close)

	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodConnect || req.Host != name+":443" {
			http.Error(rw, "only the catalog can be reached", http.StatusForbidden)
			return
		}
		inner, err := net.Dial("tcp", catalog.Listener.Addr().String())
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		outer, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			_ = inner.Close()
			return
		}
		_, _ = outer.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		go pipe(inner, outer)
		go pipe(outer, inner)
	}))
	t.Cleanup(proxy.Close)

	path := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(path, authority, 0o600))
	return []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + path, "NO_PROXY=127.0.0.1,localhost"}
}

func pipe(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// certificateFor makes a certificate that signs itself, and returns it as the authority too.
func certificateFor(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
