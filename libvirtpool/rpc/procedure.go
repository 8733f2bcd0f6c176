package rpc

// Procedure is a procedure of the remote program.
type Procedure uint32

// Connections.
const (
	ConnectOpen            Procedure = 1
	ConnectClose           Procedure = 2
	ConnectType            Procedure = 3
	ConnectVersion         Procedure = 4
	ConnectHostname        Procedure = 59
	ConnectFeature         Procedure = 60
	AuthList               Procedure = 66
	AuthPolkit             Procedure = 70
	ConnectURI             Procedure = 110
	ConnectSecure          Procedure = 149
	ConnectLibVersion      Procedure = 157
	CloseCallbackAdd       Procedure = 360
	CloseCallbackDrop      Procedure = 361
	ConnectSetIdentity     Procedure = 419
	PoolEventRegister      Procedure = 368
	PoolEventDeregister    Procedure = 369
	PoolEventLifecycle     Procedure = 370
	PoolEventRefresh       Procedure = 373
	ConnectPoolCaps        Procedure = 403
	ConnectListAllPools    Procedure = 281
	ConnectNumPools        Procedure = 71
	ConnectListPools       Procedure = 72
	ConnectNumDefinedPools Procedure = 73
	ConnectDefinedPools    Procedure = 74
	ConnectFindSources     Procedure = 75
)

// Storage pools.
const (
	PoolCreateXML      Procedure = 76
	PoolDefineXML      Procedure = 77
	PoolCreate         Procedure = 78
	PoolBuild          Procedure = 79
	PoolDestroy        Procedure = 80
	PoolDelete         Procedure = 81
	PoolUndefine       Procedure = 82
	PoolRefresh        Procedure = 83
	PoolLookupName     Procedure = 84
	PoolLookupUUID     Procedure = 85
	PoolLookupVolume   Procedure = 86
	PoolInfo           Procedure = 87
	PoolXML            Procedure = 88
	PoolGetAutostart   Procedure = 89
	PoolSetAutostart   Procedure = 90
	PoolNumVolumes     Procedure = 91
	PoolListVolumes    Procedure = 92
	PoolIsActive       Procedure = 154
	PoolIsPersistent   Procedure = 155
	PoolListAllVolumes Procedure = 282
	PoolLookupTarget   Procedure = 391
)

// Storage volumes.
const (
	VolumeCreateXML     Procedure = 93
	VolumeDelete        Procedure = 94
	VolumeLookupName    Procedure = 95
	VolumeLookupKey     Procedure = 96
	VolumeLookupPath    Procedure = 97
	VolumeInfo          Procedure = 98
	VolumeXML           Procedure = 99
	VolumePath          Procedure = 100
	VolumeCreateXMLFrom Procedure = 125
	VolumeWipe          Procedure = 165
	VolumeUpload        Procedure = 208
	VolumeDownload      Procedure = 209
	VolumeWipePattern   Procedure = 259
	VolumeResize        Procedure = 260
	VolumeInfoFlags     Procedure = 378
)

// Domains, as far as disks are concerned.
const (
	DomainAttachDevice       Procedure = 8
	DomainCreate             Procedure = 9
	DomainCreateXML          Procedure = 10
	DomainDefineXML          Procedure = 11
	DomainDestroy            Procedure = 12
	DomainDetachDevice       Procedure = 13
	DomainXML                Procedure = 14
	DomainLookupName         Procedure = 23
	DomainResume             Procedure = 28
	DomainSuspend            Procedure = 34
	DomainUndefine           Procedure = 35
	DomainMigratePrepare2    Procedure = 108
	DomainXMLFromNative      Procedure = 135
	DomainXMLToNative        Procedure = 136
	DomainAttachDeviceFlags  Procedure = 160
	DomainDetachDeviceFlags  Procedure = 161
	DomainUpdateDeviceFlags  Procedure = 174
	DomainSnapshotCreateXML  Procedure = 185
	DomainSnapshotXML        Procedure = 186
	DomainSnapshotRevert     Procedure = 192
	DomainSnapshotDelete     Procedure = 193
	DomainState              Procedure = 212
	DomainMigrateBegin3      Procedure = 213
	DomainMigratePrepare3    Procedure = 214
	DomainMigratePerform3    Procedure = 216
	DomainMigrateFinish3     Procedure = 217
	DomainSaveFlags          Procedure = 232
	DomainRestoreFlags       Procedure = 233
	DomainSaveImageXML       Procedure = 235
	DomainSaveImageDefine    Procedure = 236
	DomainMigrateBegin3P     Procedure = 302
	DomainMigratePrepare3P   Procedure = 303
	DomainMigratePrepareTun3 Procedure = 215
	DomainMigratePrepTun3P   Procedure = 304
	DomainMigratePerform3P   Procedure = 305
	DomainMigrateFinish3P    Procedure = 306
	DomainCreateFlags        Procedure = 196
	DomainCreateXMLWithFiles Procedure = 309
	DomainMigratePrepareTun  Procedure = 148
	DomainSaveParams         Procedure = 440
	DomainRestoreParams      Procedure = 441
	DomainBlockRebase        Procedure = 266
	DomainBlockCopy          Procedure = 345
	DomainFSFreeze           Procedure = 335
	DomainFSThaw             Procedure = 336
	DomainDefineXMLFlags     Procedure = 350
	DomainManagedSaveXML     Procedure = 388
	DomainManagedSaveDefine  Procedure = 389
	DomainCheckpointCreate   Procedure = 411
	DomainCheckpointXML      Procedure = 412
)
