//go:build linux

package realworld

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

// fetch is what the page hands to the function of that name.
type fetch struct {
	URL  string          `json:"url"`
	Init json.RawMessage `json:"init"`
}

// fetched is what it got.
type fetched struct {
	Error  string `json:"error"` // of the browser, for example that the page may not read the answer
	Status int    `json:"status"`
	Type   string `json:"type"`
	Body   string `json:"body"`
}

// refused is all that a page learns if an answer is not for it.
var refused = fetched{Error: "TypeError: Failed to fetch"}

// TestBrowser has a page of another origin read the documents. Whether it may is Chromium's judgement;
// what Chromium sent to come to it is in Traefik's log.
func TestBrowser(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write([]byte(`{"m.server":"bare.example.com:443"}`))
	}))
	t.Cleanup(upstream.Close)
	behind := port(t, upstream.Listener)
	traefik := startTraefik(t, []stack.Container{
		delegated("documents", "Host(`example.com`)", behind, append(everyDocument, "standalone=true")...),
		container("bare", "Host(`"+bare+"`)", behind),
	}, tlsFlags...)
	page := openPage(t)

	for name, content := range everyBody {
		t.Run(name, func(t *testing.T) {
			path := "/.well-known/matrix/" + name
			document := fetched{Status: http.StatusOK, Type: "application/json", Body: content}
			for _, step := range []struct {
				what string
				init string
				want fetched
				sent []string
			}{
				{"first time", `{}`, document, []string{"GET 200"}},
				{"kept as long as max-age says", `{}`, document, nil},
				{"asks whether it is still good", `{"cache":"no-cache"}`, document, []string{"GET 304"}},
				{"headers that need a preflight", `{"cache":"no-store","headers":{"Authorization":"a","Content-Type":"application/json","X-Requested-With":"b"}}`,
					document, []string{"GET 200", "OPTIONS 204"}},
				{"a header that is not allowed", `{"cache":"no-store","headers":{"X-Other":"a"}}`, refused, []string{"OPTIONS 204"}},
				{"a method that is not allowed", `{"method":"PUT"}`, refused, []string{"OPTIONS 204"}},
				{"a method that needs no preflight", `{"method":"POST","body":"{}"}`, fetched{
					Status: http.StatusMethodNotAllowed, Type: "application/json",
					Body: `{"errcode":"M_UNRECOGNIZED","error":"This document can only be read: use GET."}`,
				}, []string{"POST 405"}},
			} {
				traefik.accesses(t, "example.com")
				assert.Equal(t, step.want, page.fetch(t, "https://example.com"+path, step.init), step.what)
				sent := traefik.accesses(t, "example.com")
				for i := range sent {
					sent[i] = strings.Replace(sent[i], " "+path, "", 1)
				}
				assert.ElementsMatch(t, step.sent, sent, step.what)
			}
		})
	}
	assert.Equal(t, fetched{
		Status: http.StatusNotFound, Type: "application/json",
		Body: `{"errcode":"M_NOT_FOUND","error":"There is no such document here."}`,
	}, page.fetch(t, "https://example.com/.well-known/matrix/other", `{}`))

	// The same without the plugin.
	traefik.accesses(t, bare)
	assert.Equal(t, refused, page.fetch(t, "https://"+bare+"/.well-known/matrix/server", `{}`))
	assert.Equal(t, []string{"GET /.well-known/matrix/server 200"}, traefik.accesses(t, bare))
}

// page is a page that a browser has opened.
type page struct {
	fetches chan fetch
	results chan fetched
	log     *stack.Log
}

func (p *page) fetch(t *testing.T, url, init string) fetched {
	t.Helper()
	timeout := time.After(time.Minute)
	select {
	case p.fetches <- fetch{url, json.RawMessage(init)}:
	case <-timeout:
		t.Fatal("the browser does not come: ", p.log)
	}
	select {
	case result := <-p.results:
		return result
	case <-timeout:
		t.Fatal("the browser does not come back: ", p.log)
	}
	return fetched{}
}

// script fetches what the test says, one after the other.
const script = `<!doctype html><script type="module">
for (let result = null; ; ) {
	const next = await (await fetch('/next', {method: 'POST', body: JSON.stringify(result)})).json();
	try {
		const response = await fetch(next.url, next.init);
		result = {status: response.status, type: response.headers.get('Content-Type'), body: await response.text()};
	} catch (error) {
		result = {error: String(error)};
	}
}
</script>`

// openPage has Chromium open a page at app.example.edu.
func openPage(t *testing.T) *page {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		const missing = "chromium is missing: apt-get install chromium"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	p := &page{fetches: make(chan fetch), results: make(chan fetched), log: &stack.Log{}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/next" {
			rw.Header().Set("Content-Type", "text/html")
			_, _ = rw.Write([]byte(script))
			return
		}
		var result *fetched
		if err := json.NewDecoder(req.Body).Decode(&result); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		if result != nil {
			p.results <- *result
		}
		select {
		case next := <-p.fetches:
			_ = json.NewEncoder(rw).Encode(next)
		case <-req.Context().Done():
		}
	}))
	server.Listener, err = net.Listen("tcp", address+":0")
	require.NoError(t, err)
	server.TLS = &tls.Config{Certificates: make([]tls.Certificate, 1)}
	server.TLS.Certificates[0], err = tls.LoadX509KeyPair(file(certificate), file(key))
	require.NoError(t, err)
	server.StartTLS()
	t.Cleanup(server.Close)
	// What is fetched in spite of an error of the certificate is not kept, so there must not be one.
	trusted := sha256.Sum256(server.Certificate().RawSubjectPublicKeyInfo)

	home := t.TempDir()
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(trusted[:]), "--user-data-dir="+home, fmt.Sprintf("https://app.example.edu:%s/", port(t, server.Listener)))
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it starts others
	cmd.WaitDelay = time.Second
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	version, err := exec.Command(program, "--version").Output()
	require.NoError(t, err)
	t.Logf("%s", version)
	return p
}
