//go:build linux

package realworld

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

// TestHostileClients has clients break off in each way, many at once, and looks for what is left of them.
func TestHostileClients(t *testing.T) {
	u := startUpstream(t)
	traefik := startForwarding(t, u, grpcServer(t))
	const document, served = "/.well-known/matrix/server", `{"m.server":"matrix.example.com:443"}`
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: " + with + "\r\n\r\n" }

	bad := map[string]func(*net.TCPConn) error{
		"no request":          func(*net.TCPConn) error { return nil },
		"half a request line": func(conn *net.TCPConn) error { return write(conn, "GET "+document[:10]) },
		"headers that drip": func(conn *net.TCPConn) error {
			err := write(conn, "GET "+document+" HTTP/1.1\r\nHost: "+with+"\r\n")
			for range 5 {
				time.Sleep(100 * time.Millisecond)
				err = errors.Join(err, write(conn, "X-Slow: 1\r\n"))
			}
			return err
		},
		"a document that is not read": func(conn *net.TCPConn) error { return write(conn, get(document)) },
		"documents that are read by the byte": func(conn *net.TCPConn) error {
			err := errors.Join(conn.SetReadBuffer(1024), write(conn, strings.Repeat(get(document), 1000)))
			for range 100 {
				_, failed := conn.Read(make([]byte, 1))
				err = errors.Join(err, failed)
				time.Sleep(5 * time.Millisecond)
			}
			return err
		},
		"events that are not read to the end": func(conn *net.TCPConn) error {
			err := write(conn, get("/events"))
			_, failed := conn.Read(make([]byte, 100))
			return errors.Join(err, failed)
		},
		"a download that is not read": func(conn *net.TCPConn) error {
			err := write(conn, get("/download"))
			time.Sleep(200 * time.Millisecond)
			return err
		},
		"half an upload": func(conn *net.TCPConn) error {
			err := write(conn, "POST /a HTTP/1.1\r\nHost: "+with+"\r\nContent-Length: 1000\r\n\r\nhello")
			time.Sleep(50 * time.Millisecond)
			return err
		},
		"half an upload to a document": func(conn *net.TCPConn) error {
			return write(conn, "POST "+document+" HTTP/1.1\r\nHost: "+with+"\r\nContent-Length: 1000\r\n\r\nhello")
		},
		"half closed": func(conn *net.TCPConn) error {
			err := errors.Join(write(conn, get(document)), conn.CloseWrite())
			answer, failed := io.ReadAll(conn)
			if !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(answer), served) {
				failed = fmt.Errorf("%w: %q", failed, answer)
			}
			return errors.Join(err, failed)
		},
	}
	bombard := func(t *testing.T, clients int) {
		t.Helper()
		var group sync.WaitGroup
		for what, behave := range bad {
			for range clients {
				group.Go(func() {
					conn, err := net.Dial("tcp", clean)
					if err != nil {
						t.Errorf("%s: %v", what, err)
						return
					}
					tcp := conn.(*net.TCPConn)
					if err := behave(tcp); err != nil {
						t.Errorf("%s: %v", what, err)
					}
					_ = tcp.SetLinger(0) // a reset instead of a farewell
					_ = tcp.Close()
				})
			}
		}
		group.Wait()
	}
	bombard(t, 1) // what is made once
	before := traefik.left(t, u, 0)
	const clients = 50
	bombard(t, clients)
	after := traefik.left(t, u, before.goroutines)
	t.Logf("%d clients: from %d goroutines and %d open files to %d and %d", clients*len(bad), before.goroutines, before.files, after.goroutines, after.files)
	assert.LessOrEqual(t, after.goroutines, before.goroutines+5)
	assert.LessOrEqual(t, after.files, before.files+5)

	response, err := http.Get("https://" + with + document)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.JSONEq(t, served, string(body))
}

func write(conn net.Conn, text string) error {
	_, err := io.WriteString(conn, text)
	return err
}

type leftover struct{ goroutines, files int }

var total = regexp.MustCompile(`^goroutine profile: total (\d+)\n`)

// left is what Traefik holds once its connections to the upstream are closed, when it is as little as
// wanted, or after a while.
func (r *traefik) left(t *testing.T, u *upstream, wanted int) leftover {
	t.Helper()
	_ = u.received(t)
	var now leftover
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		response, err := stack.Get(t.Context(), api, "localhost", "/debug/pprof/goroutine?debug=1")
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		count := total.FindSubmatch(text)
		require.NotNil(t, count, "%s", text)
		last := now
		now.goroutines, err = strconv.Atoi(string(count[1]))
		require.NoError(t, err)
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.PID()))
		require.NoError(t, err)
		now.files = len(files)
		if now == last && (wanted == 0 || now.goroutines <= wanted) || time.Now().After(end) {
			return now
		}
	}
}
