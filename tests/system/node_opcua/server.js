// A node-opcua server that produces counted values, logs each before a client can see it, and obeys commands on stdin.
//
//   node server.js '{"port":0,"tags":20,"log":"/path/log.jsonl","history":true}'
//
// Further options: "folders": names of folders in Plant that share the variables in turn; "ranged": how many of the first
// variables have an EURange, of 0 to 100; "security": a folder, the three policies of today and certificates in it instead
// of no protection; "user": {"name":…,"password":…}, who is known besides certificates, and nobody anonymous.
// stdout, one JSON object per line: {"event":"ready","port":…}, {"event":"finished","samples":…}, answers to commands.
// stdin: {"command":"start","rate":200} values per second in all; "stop"; "forget" closes the sessions and deletes the
// subscriptions, as a restarted server would; "counters", with the services that were asked for; {"command":"set",
// "values":{"T0":5}} of single variables; {"command":"trust","certificate":path}. It ends when stdin does.
"use strict";
const fs = require("fs");
const path = require("path");
const readline = require("readline");
const { OPCUAServer } = require("node-opcua-server");
const { Variant, DataType } = require("node-opcua-variant");
const { StatusCodes } = require("node-opcua-status-code");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { readCertificate } = require("node-opcua-crypto");
const { MessageSecurityMode, SecurityPolicy } = require("node-opcua-secure-channel");

const options = JSON.parse(process.argv[2]);
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");

async function main() {
    const trust = (name) => new OPCUACertificateManager({ rootFolder: path.join(options.security, name) });
    const security = options.security && {
        securityPolicies: [
            SecurityPolicy.Basic256Sha256,
            SecurityPolicy.Aes128_Sha256_RsaOaep,
            SecurityPolicy.Aes256_Sha256_RsaPss,
        ],
        securityModes: [MessageSecurityMode.SignAndEncrypt, MessageSecurityMode.Sign],
        serverCertificateManager: trust("servers"),
        userCertificateManager: trust("users"),
    };
    const known = (name, password) => name === options.user.name && password === options.user.password;
    const server = new OPCUAServer({
        port: options.port,
        hostname: "127.0.0.1",
        allowAnonymous: !options.user,
        ...(options.user && { userManager: { isValidUser: known } }),
        serverInfo: { applicationUri: "urn:sluice:tests:node-opcua" },
        // 0: each change is handed on, not what 50 ms leave of them.
        serverCapabilities: { maxSessions: 10, minSupportedSampleRate: 0 },
        buildInfo: { productName: "peer" },
        ...security,
    });
    const asked = {};
    server.on("request", ({ schema }) => {
        const service = schema.name.replace(/Request$/, "");
        asked[service] = (asked[service] || 0) + 1;
    });
    await server.initialize();
    const space = server.engine.addressSpace;
    const own = space.getOwnNamespace();
    const plant = own.addFolder(space.rootFolder.objects, { browseName: "Plant" });
    const folders = (options.folders || []).map((name) => own.addFolder(plant, { browseName: name }));
    const variables = [];
    for (let i = 0; i < options.tags; i++) {
        const description = {
            componentOf: folders.length ? folders[i % folders.length] : plant,
            browseName: `T${i}`,
            nodeId: `s=T${i}`,
            dataType: "Double",
            accessLevel: "CurrentRead | HistoryRead",
            userAccessLevel: "CurrentRead | HistoryRead",
            minimumSamplingInterval: 0,
        };
        const range = { engineeringUnitsRange: { low: 0, high: 100 } };
        const ranged = i < (options.ranged || 0);
        const variable = ranged ? own.addAnalogDataItem({ ...description, ...range }) : own.addVariable(description);
        variable.setValueFromSource({ dataType: DataType.Double, value: -1 });
        if (options.history) space.installHistoricalDataNode(variable, { maxOnlineValues: 5000 });
        variables.push(variable);
    }
    await server.start();
    const log = fs.openSync(options.log, "a");
    let samples = 0;
    let timer = null;
    let last = 0;

    const now = () => (last = Math.max(Date.now(), last + 1)); // a time that nothing else has

    function produce() {
        // One row: every variable changes, all at one time.
        const at = now();
        const rows = variables.map((_, i) => ({ tag: `T${i}`, time_ms: at, value: samples + i + 0.5 }));
        fs.writeSync(log, rows.map((row) => JSON.stringify(row) + "\n").join(""));
        variables.forEach((variable, i) => {
            const value = new Variant({ dataType: DataType.Double, value: rows[i].value });
            variable.setValueFromSource(value, StatusCodes.Good, new Date(at));
        });
        samples += variables.length;
    }

    const commands = {
        start: ({ rate }) => {
            timer = setInterval(produce, (1000 * variables.length) / rate);
            say({ event: "started" });
        },
        stop: () => {
            clearInterval(timer);
            say({ event: "finished", samples });
        },
        set: ({ values }) => {
            for (const [tag, value] of Object.entries(values)) {
                const variant = new Variant({ dataType: DataType.Double, value });
                variables[Number(tag.slice(1))].setValueFromSource(variant, StatusCodes.Good, new Date(now()));
            }
            say({ event: "set" });
        },
        trust: async ({ certificate }) => {
            for (const manager of [server.serverCertificateManager, server.userCertificateManager]) {
                await manager.trustCertificate(readCertificate(certificate));
            }
            say({ event: "trusted" });
        },
        forget: () => {
            for (const session of Object.values(server.engine._sessions)) {
                server.engine.closeSession(session.authenticationToken, true, "Forcing");
            }
            say({ event: "forgotten" });
        },
        counters: () => {
            const engine = server.engine;
            say({ event: "counters", samples, asked, sessions: engine.currentSessionCount, subscriptions: engine.currentSubscriptionCount,
                cumulated_sessions: engine.cumulatedSessionCount, cumulated_subscriptions: engine.cumulatedSubscriptionCount });
        },
    };
    say({ event: "ready", port: server.endpoints[0].port, certificate: server.certificateFile });
    const lines = readline.createInterface({ input: process.stdin });
    for await (const line of lines) {
        const message = JSON.parse(line);
        await commands[message.command](message);
    }
    process.exit(0);
}

main().catch((error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exit(1);
});
