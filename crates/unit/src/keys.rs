//! Which keys exist, which are honoured, and what to use in place of the others.

/// The keys of one section.
pub(crate) struct Table {
    /// Section name.
    pub section: &'static str,
    /// Keys that are read, blank-separated.
    pub honoured: &'static str,
    /// Real keys that are refused: blank-separated keys and the way out.
    pub refused: &'static [(&'static str, &'static str)],
    /// How a refused key is called.
    pub called: &'static str,
}

impl Table {
    pub(crate) fn honours(&self, key: &str) -> bool {
        self.honoured.split_whitespace().any(|k| k == key)
    }
    pub(crate) fn refusal(&self, key: &str) -> Option<&'static str> {
        self.refused
            .iter()
            .find(|(keys, _)| keys.split_whitespace().any(|k| k == key))
            .map(|(_, why)| *why)
    }
    pub(crate) fn all(&self) -> impl Iterator<Item = &'static str> {
        let refused = self
            .refused
            .iter()
            .flat_map(|(keys, _)| keys.split_whitespace());
        self.honoured.split_whitespace().chain(refused)
    }
}

const PLAIN: &str = "remove it";

pub(crate) const UNIT: Table = Table {
    section: "Unit",
    honoured: "Description Documentation Requires Wants After Before BindsTo PartOf Conflicts \
               StartLimitIntervalSec StartLimitInterval StartLimitBurst",
    refused: &[
        ("Requisite", "use Requires= with After="),
        (
            "Upholds",
            "use Wants= here and Restart=always in the other unit",
        ),
        (
            "OnFailure OnSuccess",
            "use Restart=, or watch `coracle events`",
        ),
        (
            "PropagatesReloadTo ReloadPropagatedFrom PropagatesStopTo StopPropagatedFrom \
             JoinsNamespaceOf OnFailureJobMode OnSuccessJobMode IgnoreOnIsolate StopWhenUnneeded \
             RefuseManualStart RefuseManualStop AllowIsolate DefaultDependencies CollectMode \
             FailureAction SuccessAction FailureActionExitStatus SuccessActionExitStatus \
             JobTimeoutSec JobRunningTimeoutSec JobTimeoutAction JobTimeoutRebootArgument \
             StartLimitAction RebootArgument SourcePath RequiresMountsFor WantsMountsFor \
             SurviveFinalKillSignal ConditionArchitecture ConditionFirmware \
             ConditionVirtualization ConditionHost ConditionKernelCommandLine \
             ConditionKernelVersion ConditionVersion ConditionCredential ConditionEnvironment \
             ConditionSecurity ConditionCapability ConditionACPower ConditionNeedsUpdate \
             ConditionFirstBoot ConditionPathExists ConditionPathExistsGlob \
             ConditionPathIsDirectory ConditionPathIsSymbolicLink ConditionPathIsMountPoint \
             ConditionPathIsReadWrite ConditionPathIsEncrypted ConditionDirectoryNotEmpty \
             ConditionFileNotEmpty ConditionFileIsExecutable ConditionUser ConditionGroup \
             ConditionControlGroupController ConditionMemory ConditionCPUs \
             ConditionCPUFeature ConditionOSRelease AssertPathExists AssertPathIsDirectory \
             AssertHost AssertArchitecture AssertVirtualization AssertFileNotEmpty AssertUser",
            PLAIN,
        ),
    ],
    called: "a systemd key",
};

pub(crate) const INSTALL: Table = Table {
    section: "Install",
    honoured: "WantedBy RequiredBy",
    refused: &[
        ("Alias", "name the unit as it shall be called"),
        (
            "Also UpheldBy DefaultInstance",
            "submit and start the other unit by name",
        ),
    ],
    called: "a systemd key",
};

pub(crate) const SERVICE: Table = Table {
    section: "Service",
    honoured: "Type RemainAfterExit ExecCondition ExecStartPre ExecStart ExecStartPost ExecReload \
               ExecStop ExecStopPost Restart RestartSec StartLimitIntervalSec StartLimitInterval \
               StartLimitBurst TimeoutStartSec TimeoutStopSec TimeoutSec Environment \
               EnvironmentFile User Group WorkingDirectory KillSignal KillMode SuccessExitStatus \
               UMask LimitNOFILE LimitNPROC LimitCORE LimitMEMLOCK MemoryMax CPUQuota TasksMax",
    refused: &[
        ("MemoryLimit", "use MemoryMax="),
        (
            "NotifyAccess WatchdogSec WatchdogSignal FileDescriptorStoreMax",
            "use a health check: [Container] HealthCmd= or [X-Deploy] Probe=",
        ),
        (
            "StandardInput StandardOutput StandardError SyslogIdentifier SyslogFacility SyslogLevel SyslogLevelPrefix LogLevelMax LogRateLimitIntervalSec LogRateLimitBurst",
            "output always goes to `coracle unit logs`",
        ),
        (
            "Sockets Slice Delegate PIDFile BusName GuessMainPID NonBlocking",
            PLAIN,
        ),
        (
            "RestartSteps RestartMaxDelaySec RestartMode RestartPreventExitStatus RestartForceExitStatus",
            "use Restart= and RestartSec=",
        ),
        (
            "MemoryMin MemoryLow MemoryHigh MemorySwapMax CPUWeight CPUShares StartupCPUWeight IOWeight BlockIOWeight AllowedCPUs IPAddressAllow IPAddressDeny DeviceAllow DevicePolicy MemoryAccounting CPUAccounting TasksAccounting IOAccounting",
            "use MemoryMax=, CPUQuota= or TasksMax=",
        ),
        (
            "RuntimeMaxSec TimeoutAbortSec TimeoutStartFailureMode TimeoutStopFailureMode",
            "use TimeoutStartSec= and TimeoutStopSec=",
        ),
        (
            "SendSIGKILL SendSIGHUP RestartKillSignal FinalKillSignal ReloadSignal ExitType OOMPolicy RootDirectoryStartOnly PermissionsStartOnly",
            PLAIN,
        ),
        (
            "RootDirectory RootImage PrivateTmp PrivateDevices PrivateNetwork PrivateUsers \
             ProtectSystem ProtectHome ProtectProc ProtectKernelTunables ProtectKernelModules \
             ProtectKernelLogs ProtectControlGroups ProtectClock ProtectHostname ReadWritePaths \
             ReadOnlyPaths InaccessiblePaths BindPaths BindReadOnlyPaths TemporaryFileSystem \
             NoNewPrivileges CapabilityBoundingSet AmbientCapabilities SystemCallFilter \
             SystemCallArchitectures RestrictAddressFamilies RestrictNamespaces \
             RestrictRealtime RestrictSUIDSGID LockPersonality MemoryDenyWriteExecute \
             DynamicUser SupplementaryGroups StateDirectory RuntimeDirectory CacheDirectory \
             LogsDirectory ConfigurationDirectory LoadCredential SetCredential \
             SecureBits AppArmorProfile SELinuxContext RemoveIPC",
            "write a .container, which is confined by default",
        ),
        (
            "PassEnvironment UnsetEnvironment",
            "use Environment= or EnvironmentFile=",
        ),
        (
            "LimitCPU LimitFSIZE LimitDATA LimitSTACK LimitRSS LimitAS LimitLOCKS \
             LimitSIGPENDING LimitMSGQUEUE LimitNICE LimitRTPRIO LimitRTTIME Nice OOMScoreAdjust \
             CPUAffinity CPUSchedulingPolicy CPUSchedulingPriority IOSchedulingClass \
             IOSchedulingPriority TTYPath PAMName Personality IgnoreSIGPIPE UtmpIdentifier",
            PLAIN,
        ),
    ],
    called: "a systemd key",
};

pub(crate) const CONTAINER: Table = Table {
    section: "Container",
    honoured: "Image Exec Entrypoint Environment EnvironmentFile PublishPort ExposeHostPort Volume \
               Mount Tmpfs Network NetworkAlias HostName ContainerName User Group WorkingDir Label \
               Annotation AddCapability DropCapability ReadOnly ReadOnlyTmpfs RunInit ShmSize \
               Sysctl Ulimit PidsLimit Memory StopSignal StopTimeout AddHost DNS DNSOption \
               DNSSearch IP IP6 AddDevice SeccompProfile NoNewPrivileges HealthCmd HealthInterval \
               HealthRetries HealthTimeout HealthStartPeriod HealthOnFailure LogDriver LogOpt Pull \
               Timezone Mask Unmask Notify",
    refused: &[
        (
            "PodmanArgs GlobalArgs ContainersConfModule",
            "Podman does not run this container; use the key that says the same",
        ),
        ("AutoUpdate", "change Image= and submit the unit again"),
        ("Rootfs", "use `coracle import` and Image="),
        (
            "UserNS UIDMap GIDMap SubUIDMap SubGIDMap RemapUsers RemapUid RemapGid RemapUidSize GroupAdd",
            "user namespaces are not made yet; use User= and Group=",
        ),
        (
            "Pod StartWithPod",
            "share a Network= between the containers",
        ),
        (
            "Secret",
            "use EnvironmentFile= or Volume= with a file that only root can read",
        ),
        (
            "HealthStartupCmd HealthStartupInterval HealthStartupRetries HealthStartupSuccess HealthStartupTimeout",
            "use HealthStartPeriod=",
        ),
        (
            "HealthLogDestination HealthMaxLogCount HealthMaxLogSize",
            PLAIN,
        ),
        (
            "SecurityLabelDisable SecurityLabelFileType SecurityLabelLevel SecurityLabelNested SecurityLabelType AppArmor",
            "use SeccompProfile= and DropCapability=",
        ),
        (
            "CgroupsMode",
            "every container has a cgroup of its own; remove it",
        ),
        (
            "EnvironmentHost HttpProxy",
            "name the variables with Environment=",
        ),
        ("VolatileTmp", "use Tmpfs=/tmp"),
        ("ReloadCmd ReloadSignal", "use `coracle kill --signal`"),
        ("Retry RetryDelay", "pulls are retried anyway; remove it"),
        ("ServiceName", "the unit is called by its file name"),
    ],
    called: "a Quadlet key",
};

pub(crate) const VOLUME: Table = Table {
    section: "Volume",
    honoured: "VolumeName Label Driver",
    refused: &[
        (
            "Device Type Options Copy Image User Group",
            "only plain local volumes are made; bind a directory with Volume=/path:/path",
        ),
        (
            "PodmanArgs GlobalArgs ContainersConfModule ServiceName UID GID",
            PLAIN,
        ),
    ],
    called: "a Quadlet key",
};

pub(crate) const NETWORK: Table = Table {
    section: "Network",
    honoured: "NetworkName Subnet Gateway IPRange Internal Driver Label DisableDNS IPv6",
    refused: &[
        ("DNS", "use DNS= in the [Container] section"),
        (
            "Options IPAMDriver InterfaceName NetworkDeleteOnStop PodmanArgs GlobalArgs ContainersConfModule ServiceName",
            PLAIN,
        ),
    ],
    called: "a Quadlet key",
};

pub(crate) const FLEET: Table = Table {
    section: "X-Fleet",
    honoured: "MachineID MachineOf MachineMetadata Conflicts Global Replaces X-ConditionMachineID \
               X-ConditionMachineBootID X-ConditionMachineOf X-ConditionMachineMetadata X-Conflicts",
    refused: &[],
    called: "a fleet key",
};

pub(crate) const DEPLOY: Table = Table {
    section: "X-Deploy",
    honoured: "Probe ProbeIntervalSec ProbeTimeoutSec ProbeRetries SettleSec Headless Strategy \
               Batch Canary DrainSec Scale ReserveCPU ReserveMemory Spread Exclusive LostAfterSec",
    refused: &[
        ("CPU CPUs Cpus", "use ReserveCPU="),
        (
            "Memory",
            "use ReserveMemory= for what the unit is sure to get, Memory= of [Container] for what it may take",
        ),
    ],
    called: "a Coracle key",
};

/// The section of a unit of that kind that a key belongs into; that of the kind itself before those that all have.
pub fn section_of(kind: crate::UnitKind, key: &str) -> Option<&'static str> {
    use crate::UnitKind;
    let own = match kind {
        UnitKind::Container => &CONTAINER,
        UnitKind::Volume => &VOLUME,
        UnitKind::Network => &NETWORK,
        _ => &SERVICE,
    };
    let tables = [own, &DEPLOY, &FLEET, &UNIT, &SERVICE];
    let found = tables.into_iter().find(|t| t.honours(key));
    found.map(|t| t.section)
}
