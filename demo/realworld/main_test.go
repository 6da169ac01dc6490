//go:build linux

// Package realworld tests the plugin in real Traefik with the programs that it is there for: client
// and server libraries, a browser, a homeserver. They resolve example.com and connect to port 443
// as they do in production, in a network of the test's own.
package realworld

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
)

// Where the server is: addresses for documentation, as homeservers refuse private ones.
const (
	address  = "192.0.2.1"
	address6 = "2001:db8::1"
)

// zone is the DNS. Nothing listens on port 8448, so a fallback to it is noticed.
const zone = `
example.com.                            A     192.0.2.1
matrix.example.com.                     A     192.0.2.1
example.net.                            A     192.0.2.1
example.org.                            A     192.0.2.1
srv.example.org.                        A     192.0.2.1
_matrix-fed._tcp.matrix.example.org.    SRV   0 0 8443 srv.example.org.
app.example.edu.                        A     192.0.2.1
with.example.com.                       A     192.0.2.1
bare.example.com.                       A     192.0.2.1
buffered.example.com.                   A     192.0.2.1
`

// certified are the names and addresses that Traefik has a certificate for.
var certified = []string{
	"example.com", "matrix.example.com", "example.org", "matrix.example.org", "example.net", address6,
	"app.example.edu", with, bare, "buffered.example.com",
}

const (
	inside      = "WELLKNOWN_REALWORLD" // the folder of the run; set in the namespaces
	authority   = "authority.pem"
	certificate = "certificate.pem"
	key         = "key.pem"
)

// TestMain runs the tests in network, mount and process namespaces: ports below 1024 are free there,
// names are the zone's, and whatever was started ends with the test. Nothing outside is changed.
func TestMain(m *testing.M) {
	flag.Parse()
	dir := os.Getenv(inside)
	if dir == "" {
		code, err := enter()
		if err != nil {
			fmt.Fprintln(os.Stderr, "realworld:", err)
			code = 1
		}
		os.Exit(code)
	}
	if err := furnish(dir); err != nil {
		fmt.Fprintln(os.Stderr, "realworld:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter runs this program again in the namespaces.
func enter() (int, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return 1, errors.New("the ip command is missing: apt-get install iproute2")
	}
	// Building needs the network.
	if _, err := tools.Traefik(context.Background(), os.Stderr); err != nil {
		return 1, err
	}
	if _, err := tools.Dendrite(context.Background(), os.Stderr); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "realworld-*")
	if err != nil {
		return 1, err
	}
	defer os.Remove(dir)

	runtime.LockOSThread() // the death signal is sent when the thread ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+dir, "SSL_CERT_FILE="+filepath.Join(dir, authority), "TMPDIR="+dir,
		"HTTP_PROXY=", "HTTPS_PROXY=", "http_proxy=", "https_proxy=", "ALL_PROXY=", "all_proxy=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err = cmd.Run()
	if exit := (&exec.ExitError{}); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("no namespaces of its own (run the tests as root): %w", err)
	}
	return 0, nil
}

// furnish gives the namespaces their file systems, addresses, names and certificate authority.
func furnish(dir string) error {
	const private = syscall.MS_REC | syscall.MS_PRIVATE
	if err := errors.Join(
		syscall.Mount("", "/", "", private, ""),
		syscall.Mount("proc", "/proc", "proc", 0, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, ""), // goes with the namespace, whatever is left in it
	); err != nil {
		return fmt.Errorf("mounting: %w", err)
	}
	for path, content := range map[string]string{
		"/etc/hosts":         "127.0.0.1 localhost\n",
		"/etc/resolv.conf":   "nameserver 127.0.0.1\n",
		"/etc/nsswitch.conf": "hosts: files dns\n",
	} {
		name := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(name, path, "", syscall.MS_BIND, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("mounting %s: %w", path, err)
		}
	}
	for _, arguments := range []string{"link set lo up", "address add " + address + "/32 dev lo", "address add " + address6 + "/128 dev lo"} {
		if output, err := exec.Command("ip", strings.Fields(arguments)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", arguments, err, output)
		}
	}
	if err := serveDNS(); err != nil {
		return err
	}
	ca, err := stack.NewAuthority()
	if err != nil {
		return err
	}
	certificatePEM, keyPEM, err := ca.Issue(certified...)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		authority: ca.PEM, certificate: certificatePEM, key: keyPEM,
		"tls.yml": fmt.Appendf(nil, "tls: {stores: {default: {defaultCertificate: {certFile: %s, keyFile: %s}}}}\n", file(certificate), file(key)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// serveDNS answers from the zone, and that a name does not exist otherwise.
func serveDNS() error {
	records := map[dns.Question][]dns.RR{}
	names := map[string]bool{}
	parser := dns.NewZoneParser(strings.NewReader("$TTL 60\n"+zone), "", "")
	for record, ok := parser.Next(); ok; record, ok = parser.Next() {
		header := record.Header()
		question := dns.Question{Name: header.Name, Qtype: header.Rrtype, Qclass: dns.ClassINET}
		records[question] = append(records[question], record)
		names[header.Name] = true
	}
	if err := parser.Err(); err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		return err
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg).SetReply(query)
		question := query.Question[0]
		question.Name = strings.ToLower(question.Name)
		reply.Answer = records[question]
		if !names[question.Name] {
			reply.Rcode = dns.RcodeNameError
		}
		_ = rw.WriteMsg(reply)
	})}
	go func() { _ = server.ActivateAndServe() }()
	return nil
}
