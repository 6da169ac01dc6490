package cases

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var long = strings.Repeat("a", 300)

func length(body string) string { return strconv.Itoa(len(body)) }

func etagOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return `"` + hex.EncodeToString(sum[:])[:32] + `"`
}

// Echo is the service behind the plugin. It answers with what it received, and says that it was here.
var Echo = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	rw.Header().Set("X-Echo", req.Method+" "+req.RequestURI)
	rw.Header().Set("X-Echo-Test", strings.Join(req.Header["X-Test"], "|"))
	rw.Header().Set("Content-Type", "text/plain")
	rw.WriteHeader(http.StatusMultiStatus)
	_, _ = rw.Write(body)
})

// CheckHandler runs the case's exchanges with a handler, over a connection as in production.
func (c Case) CheckHandler(t *testing.T, handler http.Handler) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	c.CheckServer(t, server.Listener.Addr().String(), "example.com")
}

// CheckServer runs the case's exchanges with the server at an address, under a host name.
func (c Case) CheckServer(t *testing.T, address, host string) {
	t.Helper()
	etag := ""
	for _, e := range c.Exchanges {
		what := e.Method + " " + e.Target + " " + strings.Join(e.Headers, ", ")
		e.Headers = strings.Split(strings.ReplaceAll(strings.Join(e.Headers, "\n"), "{etag}", etag), "\n")
		response, body := e.do(t, address, host)
		if e.Forwarded {
			checkForwarded(t, what, e, response, body)
			continue
		}
		require.Equal(t, e.Status, response.StatusCode, what)
		require.Equal(t, e.WantBody, body, what)
		got := map[string]string{}
		for name, values := range response.Header {
			got[name] = strings.Join(values, "\n") // a header that is sent twice differs
		}
		delete(got, "Date")
		delete(got, "Connection")
		require.Equal(t, e.WantHeader, got, what)
		etag = response.Header.Get("Etag")
	}
}

func checkForwarded(t *testing.T, what string, e Exchange, response *http.Response, body string) {
	t.Helper()
	require.Equal(t, http.StatusMultiStatus, response.StatusCode, what)
	require.Equal(t, e.Method+" "+e.Target, response.Header.Get("X-Echo"), what)
	require.Equal(t, "1|2", response.Header.Get("X-Echo-Test"), what)
	require.Empty(t, response.Header.Values("Access-Control-Allow-Origin"), what)
	require.Empty(t, response.Header.Values("X-Content-Type-Options"), what)
	if e.Method != http.MethodHead {
		require.Equal(t, e.Body, body, what)
	}
}

// do sends the request byte for byte, which net/http's client would clean.
func (e Exchange) do(t *testing.T, address, host string) (*http.Response, string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))

	_, err = io.WriteString(conn, e.text(host))
	require.NoError(t, err)

	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: e.Method})
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

// text is the request as it is sent.
func (e Exchange) text(host string) string {
	request := e.Method + " " + e.Target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\nX-Test: 1\r\nX-Test: 2\r\n"
	if e.Body != "" {
		request += "Content-Length: " + length(e.Body) + "\r\n"
	}
	for _, header := range e.Headers {
		if header != "" {
			request += header + "\r\n"
		}
	}
	return request + "\r\n" + e.Body
}
